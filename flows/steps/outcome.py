"""The moment a run is for, what it says while it works, and what it leaves behind."""

import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from contracts.atomic import write_json
from contracts.settings import Settings

LOGGER = "amalgam"


def moment(settings: Settings, now: datetime | None) -> datetime:
    """Return the moment a run is for: as given, or the clock.

    A demo's clock stands where its data ends and runs on from there.
    """
    if now is not None:
        return now if now.tzinfo else now.replace(tzinfo=UTC)
    if settings.demo:
        from features.clock import demo_clock

        return demo_clock(settings.features)
    return datetime.now(UTC)


def midnight(at: datetime) -> datetime:
    """Return the start of the UTC day of a moment."""
    return at.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def rows_sum(*ingests: dict[str, Any]) -> str:
    """Return what became of the rows of ingests, as the sum that must hold.

    People who were erased and batches that were blocked stand in it when there are some.
    """
    names = ("rows_in", "accepted", "quarantined", "duplicates", "erased", "held")
    total = {name: sum(outcome[name] for outcome in ingests) for name in names}
    text = (
        f"{total['rows_in']:,} rows in = {total['accepted']:,} accepted + "
        f"{total['quarantined']:,} quarantined + {total['duplicates']:,} exact duplicates"
    )
    text += f" + {total['erased']:,} of erased people" if total["erased"] else ""
    return text + (f" + {total['held']:,} in blocked batches" if total["held"] else "")


def tell(message: str) -> None:
    """Log where a long step is; under a flow run the line is in the Prefect UI too."""
    logging.getLogger(LOGGER).info(message)


def keep_outcome(
    settings: Settings, run_id: str, outcome: dict[str, Any], *, flow: str | None = None
) -> dict[str, Any]:
    """Write what came of a flow run to reports/runs/, and return it.

    As the newest of its `flow`, with the moment it `ended` by the clock, to reports/last/ too.
    """
    write_json(outcome_path(settings, run_id), outcome)
    if flow is not None:
        ended = {"ended": datetime.now(UTC).isoformat()}
        write_json(settings.reports / "last" / f"{flow}.json", outcome | ended)
    return outcome


def outcome_path(settings: Settings, run_id: str) -> Path:
    """Return where the flow run `run_id` leaves what came of it, as JSON."""
    return settings.reports / "runs" / f"{run_id}.json"
