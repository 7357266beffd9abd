"""Steps of declared sources: settings into adapters, what waits to be ingested, how rows map."""

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contracts import columns as c
from contracts.errors import AmalgamError, NotFoundError, SettingsError, UnavailableError
from contracts.settings import Settings
from contracts.source_settings import SourceSettings, SqlSettings

if TYPE_CHECKING:
    from lake.declaration import DeclaredSource
    from lake.extraction import Extraction
    from lake.watch import Stamp

UNREACHED = "unreached"
"""Key of an ingest's outcome: what went wrong with sources that gave nothing."""


@dataclass(frozen=True)
class Incoming:
    """What declared sources offer to one ingest.

    declared    all declarations
    watched     files in watched folders that were not had yet, with their stamps
    unreached   databases that gave nothing, as they complained; the rest is ingested all the same
    """

    declared: tuple["DeclaredSource", ...] = ()
    watched: dict[Path, "Stamp"] = field(default_factory=dict)
    unreached: tuple[AmalgamError, ...] = ()


def declared_sources(settings: Settings) -> tuple["DeclaredSource", ...]:
    """Return the declarations of the settings as the lake takes them."""
    return tuple(_declared(settings, name, found) for name, found in settings.sources.items())


def reach_databases(settings: Settings) -> int:
    """Connect to each declared database, and no more; return how many there are.

    Raises:
        SettingsError: one is declared so that nothing can connect.
        UnavailableError: one cannot be reached.
    """
    from lake.extraction import reach

    jobs = [
        _extraction(name, source.sql)
        for name, source in settings.sources.items()
        if source.sql is not None
    ]
    for job in jobs:
        reach(job)
    return len(jobs)


def has_databases(settings: Settings) -> bool:
    """Say whether a declared source is a database."""
    return any(source.sql is not None for source in settings.sources.values())


def gather(settings: Settings) -> Incoming:
    """Land what databases have that is new, and look for new files in watched folders."""
    from lake.extraction import extract
    from lake.watch import watched_files

    unreached: list[AmalgamError] = []
    for name, source in settings.sources.items():
        if source.sql is not None:
            try:
                extract(_extraction(name, source.sql), settings.landing)
            except AmalgamError as error:
                unreached.append(error)
    declared = declared_sources(settings)
    found: dict[Path, Stamp] = {}
    for item in declared:
        there = watched_files(
            item.folders, _stamps(settings), settings.intake.settle_seconds, time.time()
        )
        found |= {path: stamp for path, stamp in there.items() if item.claims(path)}
    return Incoming(declared, found, tuple(unreached))


def finish(settings: Settings, incoming: Incoming, consumed: Iterable[Path]) -> tuple[Path, ...]:
    """Note the watched files that an ingest took; return the others, which may be removed."""
    from lake.watch import note_seen

    taken = tuple(consumed)
    had = {path: stamp for path, stamp in incoming.watched.items() if path in taken}
    if had:
        note_seen(_stamps(settings), had)
    return tuple(path for path in taken if path not in incoming.watched)


def all_reached(outcome: dict[str, Any]) -> dict[str, Any]:
    """Return the outcome of an ingest, unless a database gave nothing: what else there was is in.

    Raises:
        UnavailableError: it says which and why.
    """
    if outcome.get(UNREACHED):
        raise UnavailableError(
            f"the rest was ingested ({outcome['accepted']:,} rows accepted), but: "
            f"{'; '.join(outcome[UNREACHED])}"
        )
    return outcome


def list_sources(settings: Settings) -> list[dict[str, Any]]:
    """Return the declared sources with their state: name, table, from where, mark, files, rows."""
    from lake.extraction import read_mark
    from lake.store import Lake
    from lake.watch import count_seen

    ledger = Lake(settings.lake).read("files", columns=[c.SOURCE, c.ROWS_IN])
    had: dict[str, list[int]] = {}
    for name, rows in zip(*(column.to_pylist() for column in ledger.columns), strict=True):
        had.setdefault(name, []).append(rows)
    found = []
    for item in declared_sources(settings):
        mark = read_mark(item.name, settings.landing)
        where = [*item.files, *item.folders] or ["files with its columns"]
        found.append({
            "name": item.name,
            "table": item.table,
            "from": ["its database"] if settings.sources[item.name].sql else where,
            "mark": None if mark is None else str(mark),
            "files": len(had.get(item.name, [])),
            "rows": sum(had.get(item.name, [])),
            "watched": count_seen(_stamps(settings), item.folders),
        })
    return found


def check_file(settings: Settings, name: str, path: Path, rows: int) -> dict[str, Any]:
    """Return how the first rows of a file map, and which would be refused; nothing is written.

    Ids of people are pseudonyms. The lake's gate is asked too, catalogue apart.

    Raises:
        NotFoundError: no such source is declared.
        BadInputError: the file is not one of it.
    """
    from contracts.pseudonyms import Pseudonymiser
    from lake.readers import open_raw, read_chunks
    from lake.sources import as_read, recognise

    if name not in settings.sources:
        raise NotFoundError(
            f"no source '{name}' is declared in the settings; declared: {sorted(settings.sources)}"
        )
    raw = open_raw(path)
    adapter = recognise(raw, name, declared=declared_sources(settings))
    pseudonymiser = Pseudonymiser.from_environment(demo=settings.demo)
    chunk = next(read_chunks(as_read(raw, adapter), rows), None)
    if chunk is None:
        return {"table": adapter.table, "mapped": [], "refused": []}
    converted = adapter.convert(chunk, pseudonymiser)
    good, bad = _through_the_gate(adapter.table, converted.rows)
    return {
        "table": adapter.table,
        "mapped": good,
        "refused": sorted([*converted.refused.to_pylist(), *bad], key=lambda row: row[c.LINE]),
    }


def _through_the_gate(table: str, rows: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return rows that the gate would take, and line and rule of those it would not."""
    from datetime import UTC, datetime

    import pyarrow as pa

    from contracts.tables import table_spec
    from expectations.gate import ExpectationGate

    if not len(rows):
        return [], []
    spec = table_spec(table)
    given = rows.select(spec.schema.names)
    if c.EVENT_ID in given.column_names:  # the lake makes one of what has none
        made = pa.array([f"row {n}" for n in range(len(given))])
        given = given.set_column(0, c.EVENT_ID, made)
    numbered = given.append_column(c.ROW_ID, pa.array(range(len(given)), pa.int64()))
    judged = ExpectationGate(now=datetime.now(UTC))(table, numbered)
    shown = rows.to_pylist()
    good = [shown[n] for n in judged.good[c.ROW_ID].to_pylist()]
    broken = zip(judged.bad[c.ROW_ID].to_pylist(), judged.rules.to_pylist(), strict=True)
    bad = [{c.LINE: shown[n][c.LINE], c.RULE: rule, c.ROW: None} for n, rule in broken]
    return good, bad


def _declared(settings: Settings, name: str, found: SourceSettings) -> "DeclaredSource":
    from lake.declaration import DeclaredSource

    names = {
        ours: (theirs,) if isinstance(theirs, str) else theirs
        for ours, theirs in found.columns.items()
    }
    mark = (found.sql.high_water,) if found.sql is not None else ()
    return DeclaredSource(
        name=name,
        columns=names,
        table=found.table,
        files=found.files,
        folders=tuple(_absolute(settings, place) for place in found.paths),
        constants={ours: _as_cell(value) for ours, value in found.constants.items()},
        event_types=found.event_types,
        time_format=found.time_format,
        time_zone=found.time_zone,
        exchange_rate=found.exchange_rate or 1.0,
        negative_quantity=found.negative_quantity,
        positive_rating=found.positive_rating,
        must_match=found.must_match,
        upper_case=found.upper_case,
        whole_ids=found.whole_ids,
        delimiter=found.delimiter,
        header=found.header,
        ignore=(*found.ignore, *mark),
        derive_items=found.derive_items,
        item_texts=found.item_columns,
        stitch_sessions=found.stitch_sessions,
        extracted=found.sql is not None,
    )


def _extraction(name: str, sql: SqlSettings) -> "Extraction":
    from lake.extraction import Extraction

    url = os.environ.get(sql.url_env, "")
    if not url:
        raise SettingsError(
            f"the environment variable {sql.url_env}, which sources.{name}.sql.url_env names, is "
            "not set; put the database's URL there"
        )
    return Extraction(
        source=name,
        url=url,
        query=sql.query,
        high_water=sql.high_water,
        start=sql.start,
        batch_rows=sql.batch_rows,
        lookback_seconds=sql.lookback_seconds,
    )


def _absolute(settings: Settings, place: str) -> str:
    path = Path(place).expanduser()
    return str(path if path.is_absolute() else settings.home / path)


def _as_cell(value: str | float | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _stamps(settings: Settings) -> Path:
    return settings.landing / ".watched.json"
