"""Days add up to windows, and weekdays are compared with their like."""

import numpy as np
import pytest

from contracts.errors import BadInputError
from monitoring.days import Column, Days, join, like_weekdays, usual, weekdays
from tests.monitoring.shop import FIRST

COLUMN = Column("kind", "data", ("a", "b"))


def days(first: int, n: int) -> Days:
    table = np.arange(2.0 * n).reshape(n, 2) + first
    return Days(first, (COLUMN,), {"kind": table}, np.ones(n), {"events": table.sum(axis=1)})


def test_days_are_cut_and_joined_again() -> None:
    whole = days(FIRST, 10)
    parts = whole.between(FIRST - 5, FIRST + 4), whole.between(FIRST + 4, FIRST + 50)
    assert [len(part) for part in parts] == [4, 6]
    again = join(*parts)
    assert again.first == FIRST
    assert np.array_equal(again.counts["kind"], whole.counts["kind"])
    assert np.array_equal(again.health["events"], whole.health["events"])
    with pytest.raises(BadInputError, match="do not go on"):
        join(parts[1], parts[0])
    with pytest.raises(BadInputError, match="shape"):
        Days(FIRST, (COLUMN,), {"kind": np.zeros((3, 3))}, np.ones(3))


def test_reference_days_weigh_as_the_windows_weekdays() -> None:
    four_weeks = FIRST + np.arange(28)
    assert weekdays(four_weeks[:7]).tolist() == [0, 1, 2, 3, 4, 5, 6]
    whole = like_weekdays(four_weeks, FIRST + 28 + np.arange(14))
    assert whole.tolist() == [0.5] * 28
    weekend = like_weekdays(four_weeks, FIRST + 28 + np.array([5, 6]))
    assert weekend.reshape(4, 7).tolist() == [[0, 0, 0, 0, 0, 0.25, 0.25]] * 4
    # A weekday that the reference lacks is spread over all it has.
    monday = like_weekdays(FIRST + np.array([1, 2]), FIRST + np.array([7]))
    assert monday.tolist() == [0.5, 0.5]


def test_usual_is_the_mean_of_the_same_weekday() -> None:
    reference = FIRST + np.arange(14)
    table = np.where(np.arange(14) % 7 >= 5, 30.0, 10.0)[:, None]
    table[5] = 50.0
    expected = usual(table, reference, FIRST + 14 + np.arange(7))
    assert expected[:, 0].tolist() == [10, 10, 10, 10, 10, 40, 30]
