from services.seldom import Seldom


def test_it_is_said_at_once_and_then_once_in_a_while() -> None:
    moments = iter([0.0, 0.1, 59.9, 60.0, 119.0, 500.0])
    seldom = Seldom(60.0, lambda: next(moments))
    assert [seldom.due() for _ in range(6)] == [True, False, False, True, False, True]
