"""Feast definitions: entity → source → view → service. The only file of this folder that Feast
imports (.feastignore).

`define(folder)` builds them over the feature folder of one installation (AMALGAM_HOME/features):
Feast's duckdb store resolves relative source paths against the working directory, so the folder is
part of the definition.
"""

import os
from datetime import timedelta
from pathlib import Path
from typing import Final, NamedTuple

import pyarrow as pa
from feast import Entity, FeatureService, FeatureView, Field, FileSource, PushSource, ValueType
from feast.data_format import ParquetFormat
from feast.types import Array, Float32, Float64, Int64, String

from contracts import columns as c
from features.assembly import ELEMENTS
from features.items import ITEM_FEATURES

# A state or a price stays true until a newer one comes: age is a feature of the models, not a
# reason to forget.
FOREVER: Final = timedelta(days=3650)

_LIST_TYPES: Final = {
    pa.int64(): Array(Int64),
    pa.float32(): Array(Float32),
    pa.float64(): Array(Float64),
    pa.string(): Array(String),
}


class Definitions(NamedTuple):
    """Everything there is to register, in the order it builds on each other."""

    user: Entity
    item: Entity
    user_states: FileSource
    item_rows: FileSource
    user_state_push: PushSource
    user_state: FeatureView
    item_features: FeatureView
    ranker_v2: FeatureService


def define(folder: Path) -> Definitions:
    """Build the definitions over folder/user_states and folder/item_features; nothing is read."""
    user = Entity(name="user", join_keys=[c.USER_ID], value_type=ValueType.STRING)
    item = Entity(name="item", join_keys=[c.ITEM_ID], value_type=ValueType.STRING)

    user_states = FileSource(
        name="user_states",
        path=str(folder / "user_states"),
        file_format=ParquetFormat(),
        timestamp_field=c.EVENT_TIMESTAMP,
        created_timestamp_column=c.CREATED_TIMESTAMP,
    )
    item_rows = FileSource(
        name="item_rows",
        path=str(folder / "item_features"),
        file_format=ParquetFormat(),
        timestamp_field=c.EVENT_TIMESTAMP,
    )

    # The service pushes a state when an event is journaled; the batch rows stay the source of
    # training.
    user_state_push = PushSource(name="user_state_push", batch_source=user_states)

    # State, not windows (contracts/state.py): windows are derived at the moment they are asked for.
    user_state = FeatureView(
        name="user_state",
        entities=[user],
        ttl=FOREVER,
        schema=[
            Field(name=c.USER_ID, dtype=String),
            *(Field(name=name, dtype=_LIST_TYPES[kind]) for name, kind in ELEMENTS.items()),
        ],
        source=user_state_push,
        online=True,
    )
    item_features = FeatureView(
        name="item_features",
        entities=[item],
        ttl=FOREVER,
        schema=[
            Field(name=c.ITEM_ID, dtype=String),
            *(Field(name=name, dtype=Float32) for name in ITEM_FEATURES),
        ],
        source=item_rows,
        online=True,
    )

    # A release names the service it was trained on; other features are a new service beside the
    # old.
    ranker_v2 = FeatureService(name="ranker_v2", features=[user_state, item_features])
    return Definitions(
        user, item, user_states, item_rows, user_state_push, user_state, item_features, ranker_v2
    )


# Feast imports this file by its bare name when its own commands are run by hand
# (feature_store.yaml), and looks for module attributes. Imported as feature_repo.definitions,
# nothing is read from the environment.
if __name__ == "definitions":
    (
        user,
        item,
        user_states,
        item_rows,
        user_state_push,
        user_state,
        item_features,
        ranker_v2,
    ) = define(Path(os.environ.get("AMALGAM_HOME", "../var")).resolve() / "features")
