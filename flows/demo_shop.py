"""The shop that the demo tells of: generated, or a real export; cut in two parts of its time."""

import csv
import gzip
import os
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from contracts.errors import BadInputError

SEASON_DAYS = 70
"""The remaining weeks of a real export: ten, which in retail hold the season."""

GENERATED_SEASON_SHARE = 0.35
"""The share of a generated shop's days that lands second: from just before its season on."""


@dataclass(frozen=True)
class Shop:
    """Daily files in two parts, `first` before the cut and `rest` from it on, and a shopper to
    follow.
    """

    name: str
    first: tuple[Path, ...]
    rest: tuple[Path, ...]
    first_days: int
    rest_days: int
    cut: datetime
    end: datetime
    shopper: str

    @property
    def file_names(self) -> list[str]:
        """Names of all daily files."""
        return [path.name for path in (*self.first, *self.rest)]

    def land_first(self, landing: Path) -> None:
        """Land the files of the first part."""
        _land(self.first, landing)

    def land_rest(self, landing: Path) -> None:
        """Land the files of the second part."""
        _land(self.rest, landing)

    def request(self, at: datetime, k: int = 10) -> dict[str, Any]:
        """Return the request for the followed shopper at a moment."""
        return {"user_id": self.shopper, "k": k, "at": at.isoformat()}


def open_shop(
    data: Path | None, aside: Path, *, events: int, seed: int, say: Callable[[str], None]
) -> Shop:
    """Generate the shop, or cut the export at `data` into daily files; all below `aside`.

    `aside` lies outside AMALGAM_HOME: the generated shop's true preferences must not be readable
    there.
    """
    daily = aside / "daily"
    if aside.exists():
        shutil.rmtree(aside)
    if data is None:
        from lake.generator import generate_shop

        say(f"generating {events:,} events with seed {seed}")
        generate_shop(daily, aside / "truth", events=events, seed=seed)
        name, share = f"generated shop ({events:,} events, seed {seed})", GENERATED_SEASON_SHARE
    else:
        from lake.daily import split_daily

        say(f"cutting {data.name} into daily files")
        split_daily(data, daily, since=None, before=None)
        name, share = data.name, None
    return _cut(name, sorted(daily.iterdir()), share)


def _cut(name: str, files: list[Path], share: float | None) -> Shop:
    days = [_day(path) for path in files]
    start, end = min(days), max(days) + timedelta(days=1)
    if share is None and (end - start).days < 2 * SEASON_DAYS:
        share = GENERATED_SEASON_SHARE
    rest_days = SEASON_DAYS if share is None else int((end - start).days * share)
    cut = end - timedelta(days=rest_days)
    first = tuple(path for path, day in zip(files, days, strict=True) if day < cut)
    rest = tuple(path for path, day in zip(files, days, strict=True) if day >= cut)
    if not first or not rest:
        raise BadInputError(f"{name} spans {len(set(days))} days; the demo needs weeks of data")
    return Shop(
        name=name,
        first=first,
        rest=rest,
        first_days=(cut - start).days,
        rest_days=rest_days,
        cut=cut,
        end=end,
        shopper=_busy_shopper(first[-60:]),
    )


def _day(path: Path) -> datetime:
    return datetime.fromisoformat(f"{path.name.split('.')[0][-10:]}T00:00:00+00:00")


def _busy_shopper(files: tuple[Path, ...]) -> str:
    """Return the shopper with most rows in the newest files: somebody with a history to show."""
    seen: Counter[str] = Counter()
    for path in files:
        with gzip.open(path, "rt", newline="") as file:
            for row in csv.DictReader(file):
                if shopper := (row.get("user_id") or row.get("CustomerID")):
                    seen[shopper.removesuffix(".0")] += 1
    if not seen:
        raise BadInputError("no row of the newest days names a shopper; is this the right file?")
    return min(seen, key=lambda shopper: (-seen[shopper], shopper))


def _land(files: tuple[Path, ...], landing: Path) -> None:
    """Copy files to the landing folder so that each appears there whole or not at all."""
    landing.mkdir(parents=True, exist_ok=True)
    for path in files:
        temporary = landing / f".{path.name}"
        shutil.copyfile(path, temporary)
        os.replace(temporary, landing / path.name)
