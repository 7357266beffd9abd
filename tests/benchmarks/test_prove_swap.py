from typing import Any

import pytest

from benchmarks.prove_swap import Sent, _checked, _judged

EXPECTED = {"1": [["a"], ["b"]], "2": [["c"], ["d"]]}


def sent(*, swap_ms: float = 20.0, rest_ms: float = 10.0, fault: str = "") -> list[Sent]:
    """Ten seconds of ten requests; a swap runs from second 4 to second 5."""
    times = [number / 10 for number in range(100)]
    return [
        Sent(at, swap_ms if 4 <= at <= 5 else rest_ms, "1", fault if at == 0 else "")
        for at in times
    ]


@pytest.mark.parametrize(
    ("changed", "good"),
    [
        ({}, True),
        ({"swap_ms": 30.0}, True),
        ({"swap_ms": 31.0}, False),
        ({"fault": "mixed"}, False),
        ({"rest_ms": 9_000.0, "swap_ms": 9_000.0}, False),
    ],
)
def test_a_swap_is_judged(changed: dict[str, Any], good: bool) -> None:
    found = _judged(sent(**changed), [(4.0, 5.0)], 100)
    assert found["ok"] is good
    assert found["requests_in_swaps"] == 11
    assert not _judged(sent(**changed), [(4.0, 5.0)], 101)["ok"]  # one was never answered


@pytest.mark.parametrize(
    ("status", "body", "fault"),
    [
        (200, b'{"release": "1", "items": ["a"]}', ""),
        (200, b'{"release": "2", "items": ["c"]}', ""),
        (200, b'{"release": "1", "items": ["c"]}', "mixed"),
        (503, b"{}", "status 503"),
    ],
)
def test_an_answer_of_two_releases_is_told(status: int, body: bytes, fault: str) -> None:
    found = _checked(1.0, 5.0, status, body, EXPECTED, 0)
    assert found.fault.startswith(fault)
    assert bool(found.fault) == bool(fault)
