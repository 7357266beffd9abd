"""The leak check on a real lake: features built without what came later are the same bytes."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from contracts import columns as c
from contracts.settings import Settings, load_settings
from contracts.tables import ALIAS, INTERACTIONS, ITEMS, TIMESTAMP
from flows.steps.history import read_history
from flows.steps.training import join_features, recipe
from lake.store import Lake
from models.evaluation.later import changed_without_later
from models.ranking.covisits import CoVisits
from models.ranking.first_stage import FirstStage
from models.recipe import Prepared, TrainingInputs, fit_retrievers, prepare

NOW = datetime(2024, 6, 1, 9, 30, tzinfo=UTC)
N_EVENTS, N_ITEMS, DAYS = 3_000, 40, 70


def _fill(lake: Lake) -> None:
    """Sessions of shoppers, half of whom log in at the end; each week new items come."""
    rng = np.random.default_rng(5)
    sessions = np.sort(rng.integers(0, N_EVENTS // 4, N_EVENTS))
    begun = NOW - timedelta(days=DAYS)
    seconds = sessions * (DAYS * 86_400 * 4 // N_EVENTS) + rng.integers(0, 900, N_EVENTS)
    born = np.linspace(0, DAYS * 86_400 * 0.95, N_ITEMS)  # by item, the first one at once
    known = np.searchsorted(born, seconds, side="right")
    items = (rng.random(N_EVENTS) ** 2 * known).astype(int)
    knows = sessions % 2 == 0  # the others are anonymous until a minute after their last click
    shoppers = [f"{session % 60:032x}" for session in sessions]
    names = [f"{session:031x}s" for session in sessions]
    stamps = [begun + timedelta(seconds=int(at)) for at in seconds]
    lake.append(
        INTERACTIONS.name,
        pa.table({
            c.EVENT_ID: [f"e{n:05d}" for n in range(N_EVENTS)],
            c.USER_ID: pa.array([
                who if k else None for who, k in zip(shoppers, knows, strict=True)
            ]),
            c.SESSION_ID: names,
            c.ITEM_ID: [f"i{item:02d}" for item in items],
            c.EVENT_TYPE: rng.choice(["view", "cart", "purchase"], N_EVENTS, p=[0.5, 0.2, 0.3]),
            c.EVENT_TIMESTAMP: pa.array(stamps, TIMESTAMP),
            c.PRICE: 1.0 + items % 7,
            c.SOURCE: ["test"] * N_EVENTS,
        }),
    )
    last = {names[n]: (shoppers[n], stamps[n]) for n in range(N_EVENTS) if not knows[n]}
    lake.append(
        ALIAS.name,
        pa.table({
            c.SESSION_ID: list(last),
            c.USER_ID: [who for who, _ in last.values()],
            c.VALID_FROM: pa.array([at + timedelta(hours=1) for _, at in last.values()], TIMESTAMP),
        }),
    )
    lake.append(
        ITEMS.name,
        pa.table({
            c.ITEM_ID: [f"i{item:02d}" for item in range(N_ITEMS)],
            c.VALID_FROM: pa.array([begun + timedelta(seconds=at) for at in born], TIMESTAMP),
            c.TITLE: [f"thing of kind {item % 4}" for item in range(N_ITEMS)],
            c.CATEGORY: [f"top > kind {item % 4}" for item in range(N_ITEMS)],
        }),
    )


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, TrainingInputs]:
    settings = load_settings(home=tmp_path_factory.mktemp("leaks") / "home", demo=True)
    _fill(Lake(settings.lake))
    return settings, join_features(settings, read_history(settings, NOW), NOW)


def _stage(prepared: Prepared) -> FirstStage:
    data, config = prepared.data(prepared.roles.rank_end), prepared.config
    options = {"popularity": {}, "item_knn": {}, "text": {}, "attributes": {}}
    models = fit_retrievers(data, options, config).models
    return FirstStage(models, prepared.catalogue, config, CoVisits.fit(data, config.weights()))


def test_a_trainings_rows_know_nothing_of_what_came_later(
    inputs: tuple[Settings, TrainingInputs],
) -> None:
    settings, joined = inputs
    assert joined.rejoined is not None and len(joined.rejoined.rows) > 3
    assert joined.rejoined.states["event_items"].to_pylist()[-1]  # there are histories
    assert not (settings.features / "training" / "again").exists()
    prepared = prepare(joined, recipe(settings))
    assert len(prepared.test.inputs.births.items)  # type: ignore[union-attr]
    stage = _stage(prepared)
    assert changed_without_later(prepared, stage) == ()
    # The figures of the day after, as if a midnight were counted a day late.
    table = joined.item_features
    place = table.schema.get_field_index(c.EVENT_TIMESTAMP)
    earlier = pa.array(
        [stamp - timedelta(days=1) for stamp in table[c.EVENT_TIMESTAMP].to_pylist()],
        table[c.EVENT_TIMESTAMP].type,
    )
    leaky = replace(joined, item_features=table.set_column(place, c.EVENT_TIMESTAMP, earlier))
    changed = changed_without_later(prepare(leaky, recipe(settings)), stage)
    assert changed and all(name.startswith("item__") for name in changed)
