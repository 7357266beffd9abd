"""Leak check: what the ranker sees of a query must not change with what came after it."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from contracts import columns as c
from contracts.state import MICROS_PER_DAY
from contracts.tables import TIMESTAMP
from models.data import catalogue_from_arrow
from models.evaluation.roles import TEST
from models.evaluation.texts import described_at, texts_differ
from models.ranking.first_stage import FirstStage
from models.ranking.frame import Frame
from models.ranking.inputs import QueryInputs
from models.recipe import Prepared, query_set

CANDIDATES: Final = "candidates"
TEXTS: Final = "texts"
_QUERIES: Final = 32
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def leak_sample(queries: pa.Table) -> tuple[NDArray[np.int64], datetime] | None:
    """Return rows of test queries to join again (`Rejoined`), and the moment of the last of them:
    at most 32 of one day, from the middle of the window; None where there is no test query.
    """
    times = pc.cast(queries[c.EVENT_TIMESTAMP], TIMESTAMP).cast(pa.int64()).to_numpy()
    test = np.flatnonzero(pc.equal(queries[c.ROLE], TEST).to_numpy())
    if not len(test):
        return None
    days = times[test] // MICROS_PER_DAY
    rows = test[days == days[len(days) // 2]][-_QUERIES:]
    return rows, _EPOCH + timedelta(microseconds=int(times[rows].max()))


def changed_without_later(prepared: Prepared, stage: FirstStage) -> tuple[str, ...] | None:
    """Name what of the rows of `TrainingInputs.rejoined` changes, byte for byte, when all that came
    at its moment or later is deleted: `texts` of items described by then, then features of the
    ranker frame, or `candidates`.

    `stage` was fitted before the test window. None where nothing was joined again.
    """
    inputs, again = prepared.inputs, prepared.inputs.rejoined
    if again is None:
        return None
    cut = replace(
        inputs,
        events=_before(inputs.events, c.EVENT_TIMESTAMP, again.moment),
        items=_before(inputs.items, c.VALID_FROM, again.moment),
        queries=inputs.queries.take(pa.array(again.rows)),
        states=again.states,
        item_features=again.item_features,
    )
    said = catalogue_from_arrow(described_at(cut.items, prepared.roles.fit_end))
    texts = (TEXTS,) if texts_differ(stage.catalogue, said) else ()
    some = np.searchsorted(prepared.test_rows, again.rows)
    with_all = _frame(stage, prepared.test[some].inputs)
    without = _frame(stage, query_set(cut, np.arange(len(some)), stage.index).inputs)
    if with_all.names != without.names or with_all.items.tobytes() != without.items.tobytes():
        return (*texts, CANDIDATES)
    left, right = with_all.values[with_all.mask], without.values[without.mask]
    features = (
        name
        for place, name in enumerate(with_all.names)
        if left[:, place].tobytes() != right[:, place].tobytes()
    )
    return (*texts, *features)


def _before(table: pa.Table, name: str, moment: datetime) -> pa.Table:
    if name not in table.column_names:
        return table
    return table.filter(pc.less(table[name], pa.scalar(moment, TIMESTAMP)))


def _frame(stage: FirstStage, inputs: QueryInputs) -> Frame:
    question = stage.ask(inputs)
    return question.frame(question.candidates(stage.config.max_candidates, stage.config.k))
