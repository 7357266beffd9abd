"""A worker without HTTP, on a folder of the test's own."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from contracts.pseudonyms import Pseudonymiser
from contracts.validation import ValidatedBatch
from lake.intake import IntakeReport, ingest
from lake.journal_source import journal_segments
from lake.store import Lake
from services.comparison import OtherReleases
from services.engine import Engine, Release
from services.holder import Holder
from services.journal import Journal
from services.serving import Serving
from services.shelf import Shelf
from services.shoppers import Logins, MemoryStates, Shoppers, StateStore
from tests.services.shop import NOW

KEY = b"a key for tests only, long enough"


def holder_of(release: Release, shelf: Shelf) -> Holder:
    """Hold one release on one snapshot."""
    return Holder(
        wanted_release=lambda: release.version,
        load_release=lambda _: release,
        wanted_shelf=lambda: shelf.id,
        load_shelf=lambda _: shelf,
        make_engine=Engine,
        published=lambda _: None,
        withdrawn=lambda: None,
        poll_seconds=60,
    )


@contextmanager
def worker(
    folder: Path, holder: Holder, *, store: StateStore | None = None, **parts: Any
) -> Iterator[Serving]:
    """Run a worker that journals in `folder`; `parts` are other arguments of Serving."""

    def none(version: str) -> Release:
        raise AssertionError(f"release {version} was asked for")

    made = Serving(**{
        "holder": holder,
        "shoppers": Shoppers(
            store or MemoryStates(), Logins(folder / "logins.db"), folder / ".lock"
        ),
        "pseudonymiser": Pseudonymiser([KEY]),
        "events": Journal(folder / "journal", "events", boot="boot", rows=1000),
        "predictions": Journal(folder / "journal", "predictions", boot="boot", rows=1000),
        "clock": lambda: NOW,
        "states": "memory",
        "others": OtherReleases(list, none, Engine),
        **parts,
    })
    made.start()
    try:
        yield made
    finally:
        made.close()


def brought_in(folder: Path, lake: Lake) -> IntakeReport:
    """Bring what a worker journaled in `folder` into a lake, every row as it is."""
    return ingest(
        journal_segments(folder / "journal"),
        lake,
        validate=lambda _, batch: ValidatedBatch(
            batch, batch.slice(0, 0), pa.array([], pa.string()), {}
        ),
        pseudonymiser=Pseudonymiser([KEY]),
        now=NOW,
        chunk_rows=10_000,
        staging=folder / "staging",
    )
