"""The one place that wakes Great Expectations: in memory, silent, offline, once per process."""

import logging
import os
import threading
import warnings
from functools import cache
from typing import Any

import pandas as pd

from contracts import columns as c

LOCK = threading.Lock()
"""Held while a frame is validated: the shared context keeps the current batch, so one at a time."""


@cache
def load() -> Any:
    """Import great_expectations (about 3 s, once) with analytics off, and return the module.

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


def validate(frame: pd.DataFrame, suite: Any) -> list[Any]:
    """Run a suite over a frame with a `row_id` column; GX's results name the ids of bad rows."""
    with LOCK:
        definition = _batch_definition()
        batch = definition.get_batch(batch_parameters={"dataframe": frame})
        outcome = batch.validate(
            suite,
            result_format={
                "result_format": "COMPLETE",
                "unexpected_index_column_names": [c.ROW_ID],
            },
        )
        # GX keeps the last batch it saw; give it an empty one so that ours can be freed.
        definition.get_batch(batch_parameters={"dataframe": frame.iloc[:0].copy()})
    return list(outcome.results)
