"""The one place that wakes Great Expectations: in memory, silent, offline, once per process."""

import logging
import os
import threading
import warnings
from collections.abc import Sequence
from functools import cache
from typing import Any

import pandas as pd

LOCK = threading.Lock()
"""Held while a frame is validated: the shared context keeps the current batch, so one at a time."""


@cache
def load() -> Any:
    """Import great_expectations (2 to 3 s, once) with analytics off, and return the module.

    Its import warns about Python modules it uses and redirects all warnings of the process to a
    logger; neither is the caller's business, so both are kept inside.
    """
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import great_expectations as gx
        import great_expectations.expectations  # noqa: F401  (makes gx.expectations reachable)

        logging.captureWarnings(False)
    return gx


@cache
def _batch_definition() -> Any:
    gx = load()
    from great_expectations.data_context.types import base
    from great_expectations.data_context.types.base import ProgressBarsConfig

    # It tells of every temporary folder it makes; its module sets a level of its own.
    base.logger.setLevel(logging.WARNING)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    asset = context.data_sources.add_pandas("batches").add_dataframe_asset("batch")
    return asset.add_batch_definition_whole_dataframe("whole")


def validate(frame: pd.DataFrame, expectations: Sequence[Any]) -> list[Any]:
    """Run expectations over a frame numbered 0..n-1; return their results, in the same order.

    All are first asked for yes or no; those that said no are asked again, and then name the
    numbers of the rows that broke them (`unexpected_index_list`), where they can name rows at all.
    """
    marked = [_numbered(expectation, place) for place, expectation in enumerate(expectations)]
    with LOCK:
        definition = _batch_definition()
        batch = definition.get_batch(batch_parameters={"dataframe": frame})
        found = _run(batch, marked, "BOOLEAN_ONLY")
        failed = [marked[place] for place, outcome in found.items() if not outcome.success]
        if failed:
            found |= _run(batch, failed, "COMPLETE")
        # GX keeps the last batch it saw; give it an empty one so that ours can be freed.
        definition.get_batch(batch_parameters={"dataframe": frame.iloc[:0].copy()})
    return [found[place] for place in range(len(marked))]


_PLACE = "place"


def _numbered(expectation: Any, place: int) -> Any:
    """Return a copy that carries its place, for GX gives results back in an order of its own."""
    return expectation.copy(update={"meta": {**(expectation.meta or {}), _PLACE: place}})


def _run(batch: Any, expectations: list[Any], detail: str) -> dict[int, Any]:
    suite = load().ExpectationSuite(name="rules", expectations=expectations)
    outcome = batch.validate(suite, result_format={"result_format": detail})
    return {int(found.expectation_config.meta[_PLACE]): found for found in outcome.results}
