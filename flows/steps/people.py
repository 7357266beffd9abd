"""Steps about people: erase one, give all new pseudonyms, and look after what was refused."""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contracts import columns as c
from contracts.errors import RefusedError, UnavailableError
from contracts.settings import Settings
from flows.steps.data import ingest_files, one_taker

if TYPE_CHECKING:
    from lake.store import Lake

SEGMENT_SECONDS = 90.0
"""How long a worker may take to close the journal segment it writes."""
OPEN_SEGMENTS = "*.jsonl.open"
RETRIES = ".retry-"
"""Folders in landing where rows of quarantine, with raw ids, are put together."""


def erase(
    settings: Settings,
    token: str,
    now: datetime,
    reached: Callable[[str], None] = lambda step: None,
) -> dict[str, Any]:
    """Erase the person whose pseudonym has this token, from everything below the home.

    What landed and was journaled is taken in first, so that nothing of the person waits there; what
    arrives later and is of before the erase is left out at the door. Killed at any moment, it is
    simply run again.

    Raises:
        NotFoundError: nothing of the person is kept.
        UnavailableError: a worker of the service did not close its journal segment.
        RefusedError: a file that erase may not change still names the person.
    """
    from contracts.pseudonyms import Pseudonymiser
    from lake.erase import erase_person, find_person, forget_erasing
    from lake.footprints import files_naming
    from lake.store import Lake

    pseudonymiser, lake = Pseudonymiser.from_environment(demo=settings.demo), Lake(settings.lake)
    ingest_files(settings, None, now)
    reached("ingested")
    with lake.lock("intake", SEGMENT_SECONDS):
        pseudonym = find_person(lake, pseudonymiser, token)
        shutil.rmtree(settings.landing / ".staging", ignore_errors=True)
        _clear_retries(settings)
        erased = erase_person(
            lake, pseudonym, pseudonymiser=pseudonymiser, now=now, reached=reached
        )
    _drain_journal(settings, now)
    reached("journal drained")
    rows = _forget_features(settings, erased.names | erased.keys)
    reached("features forgotten")
    landed = _forget_landed(settings, lake)
    reached("landing forgotten")
    named = files_naming([settings.registry, settings.reports], erased.names | erased.keys)
    if named:
        raise RefusedError(
            f"the person is erased from lake and features, but these files still name them: "
            f"{', '.join(map(str, named[:5]))}; delete them (a release: train a new one first), "
            "then run the erase again"
        )
    forget_erasing(lake, pseudonymiser, pseudonym)
    return {
        "rows": {name: count for name, count in erased.rows.items() if count},
        "sessions": len(erased.grave.sessions),
        "feature_rows": rows,
        "landed_files": landed,
        "erased_at": erased.grave.erased_at.isoformat(),
    }


def forget_late(settings: Settings, since: datetime) -> int:
    """Forget once more whoever was erased from `since` on: a build that had begun by then wrote
    their features again. Returns the rows that went.
    """
    from contracts.pseudonyms import Pseudonymiser
    from lake.store import Lake
    from lake.tombstones import graves

    lake = Lake(settings.lake)
    if lake.version("tombstones") is None:
        return 0
    buried = graves(lake, Pseudonymiser.from_environment(demo=settings.demo))
    names = {
        name
        for grave in buried
        if grave.erased_at >= since
        for name in (grave.user, *grave.sessions)
    }
    return _forget_features(settings, names) if names else 0


def rotate_key(
    settings: Settings,
    now: datetime,
    reached: Callable[[str], None] = lambda step: None,
) -> dict[str, int]:
    """Give everything the pseudonyms of all keys of AMALGAM_ID_KEY; return rows by table.

    What landed and was journaled is taken in under the older keys first. Log-ins are made again
    from the lake; features and the online store are deleted, for the next materialize to build.
    Killed at any moment, it is simply run again.

    Raises:
        UnavailableError: `amalgam up` or a worker of the service runs, and would go on with the
            older keys.
        SettingsError: the lake was filled under keys that AMALGAM_ID_KEY does not begin with.
    """
    from contracts.pseudonyms import Pseudonymiser
    from lake.rekey import older_keys, rekey, under_way
    from lake.store import Lake

    _nothing_runs(settings)
    pseudonymiser, lake = Pseudonymiser.from_environment(demo=settings.demo), Lake(settings.lake)
    older = older_keys(lake, pseudonymiser)
    if older is not None and not under_way(lake):
        ingest_files(settings, None, now, pseudonymiser=older)
        reached("ingested")
    with lake.lock("intake", SEGMENT_SECONDS):
        return rekey(
            lake,
            pseudonymiser,
            now=now,
            staging=settings.landing / ".staging",
            elsewhere=lambda: _renew_features(settings, lake),
            reached=reached,
        )


def retry_quarantine(settings: Settings, rule: str | None, now: datetime) -> dict[str, int]:
    """Offer rows in quarantine again, those of `rule` or all; return what came of them."""
    from contracts.pseudonyms import Pseudonymiser
    from lake.retry import retry
    from lake.store import Lake

    def offer(paths: Sequence[Path], source: str) -> None:
        why = "rows of quarantine that are offered again"
        ingest_files(settings, list(map(str, paths)), now, source=source, accept_blocked=why)

    lake = Lake(settings.lake)
    settings.landing.mkdir(parents=True, exist_ok=True)
    with one_taker(lake):
        _clear_retries(settings)
        with tempfile.TemporaryDirectory(dir=settings.landing, prefix=RETRIES) as folder:
            people = Pseudonymiser.from_environment(demo=settings.demo)
            found = retry(lake, people, offer, Path(folder), rule=rule)
    return asdict(found)


def _clear_retries(settings: Settings) -> None:
    """Delete what a killed retry left."""
    for folder in settings.landing.glob(f"{RETRIES}*"):
        shutil.rmtree(folder)


def _nothing_runs(settings: Settings) -> None:
    from flows.environment import server_is_up
    from services.workers import Workers

    live = Workers(settings.registry / "workers").live()
    if live or server_is_up(settings):
        what = f"worker {live[0].pid} of the service" if live else "amalgam up"
        raise UnavailableError(f"{what} runs with the older keys; end it, then rotate the key")


def _renew_features(settings: Settings, lake: "Lake") -> None:
    """Make the log-ins again from the lake, which has them all; delete what else names people."""
    from lake.footprints import drop_people
    from services.shoppers import Logins

    if not settings.features.is_dir():
        return
    drop_people(settings.features)
    alias = lake.read("alias", columns=[c.SESSION_ID, c.USER_ID])
    logins = Logins(settings.features / "logins.db")
    columns = [alias[name].to_pylist() for name in (c.SESSION_ID, c.USER_ID)]
    for session, user in zip(*columns, strict=True):
        logins.claim(session, user)
    logins.close()


def _drain_journal(settings: Settings, now: datetime) -> None:
    """Wait until the workers have closed the segments that are open now, and take them in: what
    they hold of the person is left out, and the files go.
    """
    held = list(settings.journal.glob(OPEN_SEGMENTS)) if settings.journal.is_dir() else []
    deadline = time.monotonic() + SEGMENT_SECONDS
    while True:
        # Looked at before the ingest: a segment that is closed during it was perhaps not read.
        left = [path for path in held if path.exists()]
        ingest_files(settings, None, now)
        if not left:
            return
        if time.monotonic() > deadline:
            raise UnavailableError(
                f"{left[0]} was not closed for {SEGMENT_SECONDS:.0f} s and may name the person; "
                "look at the service's log, then run the erase again"
            )
        time.sleep(0.5)


def _forget_features(settings: Settings, names: "frozenset[str] | set[str]") -> int:
    from lake.footprints import forget_in_parquet, forget_in_sqlite

    if not settings.features.is_dir():
        return 0
    rows = forget_in_parquet(settings.features, names)
    with _no_pushes(settings):
        for path in sorted(settings.features.rglob("*.db")):
            rows += forget_in_sqlite(path, names)
    return rows


@contextmanager
def _no_pushes(settings: Settings) -> Iterator[None]:
    """Hold the lock under which the service's workers change states (services/shoppers.py)."""
    handle = os.open(settings.features / ".states.lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _forget_landed(settings: Settings, lake: "Lake") -> int:
    """Delete the landed files that retention keeps; those not taken in yet may name the person."""
    from lake.footprints import forget_landed

    known = set(lake.read("files", columns=[c.FILE_ID])[c.FILE_ID].to_pylist())
    gone, waiting = forget_landed(settings.landing, known)
    if waiting:
        raise RefusedError(
            f"{waiting[0]} was not taken into the lake and may name the person; mend or delete it, "
            "then run the erase again"
        )
    return gone
