"""What a release keeps of its training data for the watch: days summed up, bins, limits.

Made once at training and written into the bundle, so that a check reads no event that the release
was trained on. It holds counts, bin edges, category names and, of a shop without categories, its
most frequent items; of shoppers only a filter that lists nobody (monitoring/seen.py).
"""

import json
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from contracts import atomic
from contracts import columns as c
from contracts.errors import BadInputError, CorruptError
from contracts.settings import MonitorSettings
from contracts.state import MICROS_PER_DAY
from contracts.tables import TIMESTAMP
from monitoring.calibration import Calibration, calibrate
from monitoring.days import Column, Days, Kind
from monitoring.events import NEW_USER, Learnt, learn
from monitoring.seen import Seen

FORMAT: Final = 2
"""Moves when the same events are counted in another way, so that days do not compare."""
WARM_DAYS: Final = 14
"""First days of a shop's data, in which everybody is new: left out where the data is long enough;
where it is not, new shoppers are not watched."""
LONG_ENOUGH: Final = 5 * WARM_DAYS


@dataclass(frozen=True)
class Profile:
    """The reference: days before the release's data end, what was learnt of them, and limits.

    `n_bots` are how many shoppers were set aside in its data.
    `basis` are the settings that the calibration stands for; a check under others calibrates anew.
    """

    learnt: Learnt
    days: Days
    n_bots: int
    calibrations: Mapping[Kind, Calibration | None]
    basis: Mapping[str, Any]

    def calibrated(self, settings: MonitorSettings, seed: int) -> Mapping[Kind, Calibration | None]:
        """Return the limits for these settings: the stored ones, or, for others, new ones."""
        if self.basis == basis_of(settings):
            return self.calibrations
        return _calibrations(self.days, settings, seed)

    def save(self, path: Path) -> None:
        """Write one JSON file, whole or not at all."""
        bits = self.learnt.seen.bits
        told = {
            "format": FORMAT,
            "first": self.days.first,
            "columns": [asdict(column) for column in self.learnt.columns],
            "features": [asdict(column) for column in self.learnt.features],
            "counts": {
                name: table.astype(np.int64).tolist() for name, table in self.days.counts.items()
            },
            "visits": self.days.visits.tolist(),
            "health": {name: row.tolist() for name, row in self.days.health.items()},
            "bot_limit": self.learnt.bot_limit,
            "top_items": self.learnt.top_items,
            "seen": b64encode(np.packbits(bits).tobytes()).decode(),
            "seen_bits": len(bits),
            "n_bots": self.n_bots,
            "calibrations": {
                kind: None if found is None else asdict(found)
                for kind, found in self.calibrations.items()
            },
            "basis": dict(self.basis),
        }
        atomic.write_json(path, told)

    @classmethod
    def load(cls, path: Path) -> "Profile | None":
        """Read what `save` wrote; None where that was older code, whose counts do not compare.

        Raises:
            CorruptError: the file is something else.
        """
        try:
            told = json.loads(path.read_text())
            if 0 < told["format"] < FORMAT:
                return None
            if told["format"] != FORMAT:
                raise ValueError(f"format {told['format']}, not {FORMAT}")
            return cls._of(told)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CorruptError(
                f"{path} is not a reference profile ({error}); fetch it again"
            ) from None

    @classmethod
    def _of(cls, told: dict[str, Any]) -> "Profile":
        columns, features = (
            tuple(
                Column(
                    name=column["name"],
                    kind=column["kind"],
                    labels=tuple(column["labels"]),
                    edges=tuple(column["edges"]),
                    values=tuple(column["values"]),
                )
                for column in told[part]
            )
            for part in ("columns", "features")
        )
        days = Days(
            first=told["first"],
            columns=(*columns, *features),
            counts={name: np.array(rows, np.float64) for name, rows in told["counts"].items()},
            visits=np.array(told["visits"], np.float64),
            health={name: np.array(row, np.float64) for name, row in told["health"].items()},
        )
        packed = np.frombuffer(b64decode(told["seen"]), np.uint8)
        seen = Seen(np.unpackbits(packed)[: told["seen_bits"]].astype(np.bool_))
        top = told["top_items"]
        top_items = None if top is None else tuple(top)
        return cls(
            learnt=Learnt(columns, told["bot_limit"], seen, top_items, features),
            days=days,
            n_bots=told["n_bots"],
            calibrations={
                kind: None if found is None else Calibration.of(found)
                for kind, found in told["calibrations"].items()
            },
            basis=told["basis"],
        )


def make_profile(
    events: pa.Table, items: pa.Table, data_end: datetime, settings: MonitorSettings, *, seed: int
) -> Profile:
    """Sum up the last `history_days` whole days before `data_end`, and calibrate the limits.

    Args:
        events: all events before `data_end` (features.shoppers.shopper_events).
        items: every version of each item.

    Raises:
        BadInputError: there is no event on a whole day before `data_end`.
    """
    before = day_of(data_end)
    oldest = pc.min(pc.cast(pc.cast(events[c.EVENT_TIMESTAMP], TIMESTAMP), pa.int64())).as_py()
    if oldest is None:
        raise BadInputError(f"no events before {data_end.isoformat()}; nothing to watch against")
    first = oldest // MICROS_PER_DAY
    warm = WARM_DAYS if before - first >= LONG_ENOUGH else 0
    learnt, days, bots = learn(
        events,
        items,
        since=max(first + warm, before - settings.history_days),
        before=before,
        bot_events_per_day=settings.bot_events_per_day,
    )
    if not warm:
        columns = tuple(column for column in learnt.columns if column.name != NEW_USER)
        learnt = replace(learnt, columns=columns)
    days = days.only(learnt.names)
    calibrations = _calibrations(days, settings, seed)
    if calibrations["feature"] is None:
        # Histories only grow in a young shop, and nothing says yet by how much.
        learnt = replace(learnt, features=())
        days = days.only(learnt.names)
    return Profile(learnt, days, len(bots), calibrations, basis_of(settings))


def _calibrations(
    days: Days, settings: MonitorSettings, seed: int
) -> dict[Kind, Calibration | None]:
    kinds: tuple[Kind, ...] = ("data", "feature")
    return {kind: calibrate(days, settings, kind, seed=seed) for kind in kinds}


def basis_of(settings: MonitorSettings) -> dict[str, Any]:
    """Return the settings that a calibration depends on."""
    names = {
        "window_days",
        "reference_days",
        "false_alarm_rate",
        "methods",
        "thresholds",
    }
    return settings.model_dump(mode="json", include=names)


def day_of(moment: datetime) -> int:
    """Return the UTC day that `moment` lies in, counted from 1970-01-01."""
    if moment.tzinfo is None:
        raise BadInputError(f"{moment} has no time zone; pass an aware UTC datetime")
    return (moment.astimezone(UTC) - _EPOCH) // timedelta(days=1)


def midnight_of(day: int) -> datetime:
    """Return the moment that a day begins."""
    return _EPOCH + timedelta(days=day)


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
