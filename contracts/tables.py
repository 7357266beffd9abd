"""Tables of the lake: keys, columns, types. The only place that says what a table looks like."""

from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from contracts import columns as c
from contracts.errors import NotFoundError

TIMESTAMP: Final = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True)
class TableSpec:
    """One table: `required` columns are never null; `time` is the column that orders its rows."""

    name: str
    key: tuple[str, ...]
    schema: pa.Schema
    required: tuple[str, ...]
    time: str
    user_columns: tuple[str, ...] = ()
    session_columns: tuple[str, ...] = ()


def _schema(*fields: tuple[str, pa.DataType]) -> pa.Schema:
    return pa.schema([pa.field(name, kind) for name, kind in fields])


INTERACTIONS: Final = TableSpec(
    name="interactions",
    key=(c.EVENT_ID,),
    schema=_schema(
        (c.EVENT_ID, pa.string()),
        (c.USER_ID, pa.string()),
        (c.ITEM_ID, pa.string()),
        (c.EVENT_TYPE, pa.string()),
        (c.EVENT_TIMESTAMP, TIMESTAMP),
        (c.QUANTITY, pa.int64()),
        (c.PRICE, pa.float64()),
        (c.RATING, pa.float64()),
        (c.SESSION_ID, pa.string()),
        (c.REQUEST_ID, pa.string()),
        (c.SOURCE, pa.string()),
    ),
    required=(c.EVENT_ID, c.ITEM_ID, c.EVENT_TYPE, c.EVENT_TIMESTAMP, c.SOURCE),
    time=c.EVENT_TIMESTAMP,
    user_columns=(c.USER_ID,),
    session_columns=(c.SESSION_ID,),
)

ITEMS: Final = TableSpec(
    name="items",
    key=(c.ITEM_ID, c.VALID_FROM),
    schema=_schema(
        (c.ITEM_ID, pa.string()),
        (c.VALID_FROM, TIMESTAMP),
        (c.TITLE, pa.string()),
        (c.DESCRIPTION, pa.string()),
        (c.CATEGORY, pa.string()),
        (c.BRAND, pa.string()),
        (c.PRICE, pa.float64()),
        (c.TAGS, pa.list_(pa.string())),
        (c.IMAGE_PATH, pa.string()),
        (c.AVAILABLE, pa.bool_()),
        (c.RELEASED_AT, TIMESTAMP),
    ),
    required=(c.ITEM_ID, c.VALID_FROM, c.TITLE),
    time=c.VALID_FROM,
)

USERS: Final = TableSpec(
    name="users",
    key=(c.USER_ID, c.VALID_FROM),
    schema=_schema(
        (c.USER_ID, pa.string()),
        (c.VALID_FROM, TIMESTAMP),
        (c.COUNTRY, pa.string()),
        (c.SIGNUP_AT, TIMESTAMP),
    ),
    required=(c.USER_ID, c.VALID_FROM),
    time=c.VALID_FROM,
    user_columns=(c.USER_ID,),
)

REVIEWS: Final = TableSpec(
    name="reviews",
    key=(c.REVIEW_ID,),
    schema=_schema(
        (c.REVIEW_ID, pa.string()),
        (c.USER_ID, pa.string()),
        (c.ITEM_ID, pa.string()),
        (c.RATING, pa.float64()),
        (c.TEXT, pa.string()),
        (c.EVENT_TIMESTAMP, TIMESTAMP),
    ),
    required=(c.REVIEW_ID, c.ITEM_ID, c.EVENT_TIMESTAMP),
    time=c.EVENT_TIMESTAMP,
    user_columns=(c.USER_ID,),
)

SEARCHES: Final = TableSpec(
    name="searches",
    key=(c.SEARCH_ID,),
    schema=_schema(
        (c.SEARCH_ID, pa.string()),
        (c.QUERY, pa.string()),
        (c.USER_ID, pa.string()),
        (c.SESSION_ID, pa.string()),
        (c.EVENT_TIMESTAMP, TIMESTAMP),
        (c.CLICKED_ITEMS, pa.list_(pa.string())),
    ),
    required=(c.SEARCH_ID, c.QUERY, c.EVENT_TIMESTAMP),
    time=c.EVENT_TIMESTAMP,
    user_columns=(c.USER_ID,),
    session_columns=(c.SESSION_ID,),
)

PREDICTION_LOG: Final = TableSpec(
    name="prediction_log",
    key=(c.REQUEST_ID, c.POSITION),
    schema=_schema(
        (c.REQUEST_ID, pa.string()),
        (c.POSITION, pa.int64()),
        (c.USER_ID, pa.string()),
        (c.SESSION_ID, pa.string()),
        (c.ITEM_ID, pa.string()),
        (c.SCORE, pa.float64()),
        (c.BASE_SCORES, pa.list_(pa.float64())),
        (c.RELEASE, pa.string()),
        (c.SNAPSHOT, pa.string()),
        (c.RUNG, pa.string()),
        (c.EXPERIMENT_ARM, pa.string()),
        (c.PROPENSITY, pa.float64()),
        (c.EVENT_TIMESTAMP, TIMESTAMP),
    ),
    required=(c.REQUEST_ID, c.POSITION, c.ITEM_ID, c.RELEASE, c.RUNG, c.EVENT_TIMESTAMP),
    time=c.EVENT_TIMESTAMP,
    user_columns=(c.USER_ID,),
    session_columns=(c.SESSION_ID,),
)

# Kept by the lake itself: who a session turned out to be, what was refused, which files came in.
ALIAS: Final = TableSpec(
    name="alias",
    key=(c.SESSION_ID,),
    schema=_schema(
        (c.SESSION_ID, pa.string()), (c.USER_ID, pa.string()), (c.VALID_FROM, TIMESTAMP)
    ),
    required=(c.SESSION_ID, c.USER_ID, c.VALID_FROM),
    time=c.VALID_FROM,
    user_columns=(c.USER_ID,),
    session_columns=(c.SESSION_ID,),
)

QUARANTINE: Final = TableSpec(
    name="quarantine",
    key=(c.QUARANTINE_ID,),
    schema=_schema(
        (c.QUARANTINE_ID, pa.string()),
        (c.TABLE, pa.string()),
        (c.RULE, pa.string()),
        (c.FILE, pa.string()),
        (c.LINE, pa.int64()),
        (c.SOURCE, pa.string()),
        (c.FORMAT, pa.string()),
        (c.ROW, pa.string()),
        (c.SEALED, pa.binary()),
        (c.QUARANTINED_AT, TIMESTAMP),
    ),
    required=(c.QUARANTINE_ID, c.TABLE, c.RULE, c.FILE, c.QUARANTINED_AT),
    time=c.QUARANTINED_AT,
)

FILES: Final = TableSpec(
    name="files",
    key=(c.FILE_ID,),
    schema=_schema(
        (c.FILE_ID, pa.string()),
        (c.FILE, pa.string()),
        (c.SOURCE, pa.string()),
        (c.ROWS_IN, pa.int64()),
        (c.ROWS_ACCEPTED, pa.int64()),
        (c.ROWS_QUARANTINED, pa.int64()),
        (c.ROWS_DUPLICATE, pa.int64()),
        (c.ROWS_ERASED, pa.int64()),
        (c.INGESTED_AT, TIMESTAMP),
    ),
    required=(c.FILE_ID, c.FILE, c.ROWS_IN, c.INGESTED_AT),
    time=c.INGESTED_AT,
)

# Who was erased: the pseudonym sealed (Fernet), so that re-landed files do not bring a person back.
TOMBSTONES: Final = TableSpec(
    name="tombstones",
    key=(c.TOMBSTONE_ID,),
    schema=_schema(
        (c.TOMBSTONE_ID, pa.string()),
        (c.KIND, pa.string()),
        (c.SEALED, pa.binary()),
        (c.ERASED_AT, TIMESTAMP),
    ),
    required=(c.TOMBSTONE_ID, c.KIND, c.SEALED, c.ERASED_AT),
    time=c.ERASED_AT,
)

TABLES: Final = {
    spec.name: spec
    for spec in (
        INTERACTIONS,
        ITEMS,
        USERS,
        REVIEWS,
        SEARCHES,
        PREDICTION_LOG,
        ALIAS,
        QUARANTINE,
        FILES,
        TOMBSTONES,
    )
}
# Tables that a shop's own files may hold; the rest the platform writes itself.
INTAKE_TABLES: Final = ("interactions", "items", "users", "reviews", "searches")


def table_spec(name: str) -> TableSpec:
    """Return the spec of `name`; raise NotFoundError that lists the known tables."""
    try:
        return TABLES[name]
    except KeyError:
        raise NotFoundError(f"unknown table '{name}'; known: {sorted(TABLES)}") from None
