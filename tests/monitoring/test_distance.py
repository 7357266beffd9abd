"""Distances agree with numbers worked out by hand and with scipy."""

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import jensenshannon as scipy_jensenshannon

from monitoring.days import Column
from monitoring.distance import drop, jensenshannon, psi, score, wasserstein

ONE = np.array([5e6, 3e6, 2e6])
OTHER = np.array([3e6, 3e6, 4e6])


def test_psi_is_the_number_worked_out_by_hand() -> None:
    # (0.5-0.3) ln(0.5/0.3) + 0 + (0.2-0.4) ln(0.2/0.4) = 0.10217 + 0.13863
    assert float(psi(ONE, OTHER)) == pytest.approx(0.24080, abs=1e-5)
    assert float(psi(ONE, ONE * 7)) == pytest.approx(0.0, abs=1e-9)


def test_an_empty_bin_is_far_not_infinite() -> None:
    # Half an event a bin: shares 100.5/101 and 0.5/101 against the reverse.
    shares = 100.5 / 101, 0.5 / 101
    expected = 2 * (shares[0] - shares[1]) * np.log(shares[0] / shares[1])
    assert float(psi(np.array([100.0, 0]), np.array([0, 100.0]))) == pytest.approx(expected)


def test_many_pairs_at_a_time_are_each_as_alone() -> None:
    rng = np.random.default_rng(1)
    left, right = rng.integers(1, 50, (2, 4, 7, 5)).astype(float)
    for method in (psi, jensenshannon, wasserstein):
        together = method(left, right)
        assert together.shape == (4, 7)
        assert float(together[2, 3]) == pytest.approx(float(method(left[2, 3], right[2, 3])))


def test_jensenshannon_and_wasserstein_are_scipys() -> None:
    assert float(jensenshannon(ONE, OTHER)) == pytest.approx(
        scipy_jensenshannon(ONE, OTHER, base=2), rel=1e-5
    )
    places = np.arange(3)
    expected = stats.wasserstein_distance(places, places, ONE, OTHER) / 2
    assert float(wasserstein(ONE, OTHER)) == pytest.approx(expected)


def test_drop_is_the_relative_fall_of_the_mean_and_a_rise_is_none() -> None:
    clicked = np.array([0.0, 1.0])
    assert float(drop(np.array([90.0, 10]), np.array([95.0, 5]), clicked)) == pytest.approx(0.5)
    assert float(drop(np.array([95.0, 5]), np.array([90.0, 10]), clicked)) == 0.0
    assert float(drop(np.array([95.0, 0]), np.array([90.0, 10]), clicked)) == 0.0


def test_ordered_methods_leave_bins_outside_the_order_out() -> None:
    column = Column("price", "data", ("low", "high", "missing"), (1.0,), (0.0, 1.0))
    left, right = np.array([5.0, 5, 0]), np.array([5.0, 5, 90])
    assert float(score(column, "wasserstein", left, right)) == 0.0
    assert float(score(column, "psi", left, right)) > 1.0
