"""Compiled loops where nothing can be kept on disk."""

import logging

import numpy as np
import pytest
from numba.core import caching

from models.ranking import compiled as ours
from models.ranking.compiled import FLOAT64_1, added_up, compiled, inlined


def test_loops_are_compiled_where_nothing_can_be_written(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(caching.FunctionCache._impl_class, "_locator_classes", [])
    ours._warn_once.cache_clear()

    @inlined
    def _twice(x: float) -> float:
        return 2 * x

    @added_up
    def _sum(values: np.ndarray) -> float:
        total = 0.0
        for value in values:
            total += value
        return total

    @compiled((FLOAT64_1,))
    def loop(values: np.ndarray) -> float:
        return _twice(_sum(values))

    with caplog.at_level(logging.WARNING, logger=ours.__name__):
        assert loop(np.arange(4.0)) == 12.0
    assert loop.signatures  # type: ignore[attr-defined]
    warned = [record for record in caplog.records if record.name == ours.__name__]
    assert len(warned) == 1 and "NUMBA_CACHE_DIR" in warned[0].getMessage()


def test_other_errors_are_not_taken_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("the disk is on fire")

    monkeypatch.setattr(caching.FunctionCache._impl_class, "__init__", broken)
    with pytest.raises(RuntimeError, match="on fire"):
        inlined(lambda x: x)
