"""The hold after a rollback: what found the release that was taken back must not bring it back.

A canary that was rolled back holds as a rollback of the champion does. Until it ends, drift starts
no training, and a training that nobody asked for by hand does not move the champion. It ends by
itself after `[monitor] rollback_hold_days`, with `amalgam resume`, or when somebody moves the
champion on.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from contracts.errors import RefusedError
from contracts.settings import Settings

if TYPE_CHECKING:
    from services.registry import Releases

RESUME: Final = "resume"


@dataclass(frozen=True)
class Hold:
    """The rollback that holds: from which release to which, who did it and why, and until when."""

    taken_back: str
    champion: str
    who: str
    why: str
    since: datetime
    until: datetime

    @property
    def reason(self) -> str:
        """Return the hold as a sentence."""
        return (
            f"held until {self.until:%Y-%m-%d %H:%M} UTC: {self.who} rolled back from release "
            f"{self.taken_back} to {self.champion} at {self.since:%Y-%m-%d %H:%M} ({self.why}); "
            "to end it earlier: amalgam resume"
        )


def hold_of(settings: Settings, now: datetime) -> Hold | None:
    """Return the hold at a moment, None without one. A moment before the rollback is held too."""
    from services.registry import Releases

    releases = Releases(settings.registry)
    pointer = releases.champion()
    if pointer is None:
        return None
    if pointer.action != "rollback":
        return _canary_hold(settings, releases, now)
    since = datetime.fromisoformat(pointer.promoted_at)
    until = since + timedelta(days=settings.monitor.rollback_hold_days)
    if now >= until or _resumed(releases, pointer.revision):
        return _canary_hold(settings, releases, now)
    return Hold(pointer.previous or "none", pointer.version, pointer.who, pointer.why, since, until)


def _canary_hold(settings: Settings, releases: "Releases", now: datetime) -> Hold | None:
    """Return the hold of the last experiment whose challenger was rolled back, until somebody moves
    the champion on or ends the hold; an experiment that ended otherwise since does neither.
    """
    ended = releases.experiments.ended()
    line = next((line for line in reversed(ended) if line["outcome"] == "rolled_back"), None)
    if line is None:
        return None
    since = datetime.fromisoformat(line["ended"])
    until = since + timedelta(days=settings.monitor.rollback_hold_days)
    after = [
        found
        for found in releases.audit.lines()
        if found["action"] in {"promote", "rollback", RESUME}
        and datetime.fromisoformat(found["at"]) >= since
    ]
    if now >= until or after:
        return None
    return Hold(
        line["challenger"], line["control"], line["ended_by"], line["ended_why"], since, until
    )


def _resumed(releases: "Releases", revision: int) -> bool:
    """Say whether the hold of the move with this revision was ended by hand."""
    lines = releases.audit.lines()
    moved = [place for place, line in enumerate(lines) if line.get("revision") == revision]
    return bool(moved) and any(line["action"] == RESUME for line in lines[moved[-1] :])


def hold_back(settings: Settings, verdict: dict[str, Any], now: datetime) -> dict[str, Any]:
    """Return a verdict on drift that, under a hold, starts no training and says why."""
    hold = hold_of(settings, now)
    if hold is None or not verdict["retrain"]:
        return verdict
    return verdict | {"retrain": False, "reasons": [*verdict["reasons"], hold.reason]}


def end_hold(settings: Settings, now: datetime, who: str, why: str) -> dict[str, Any]:
    """End the hold before its time; audited.

    Raises:
        RefusedError: there is none.
    """
    from services.registry import Releases

    hold = hold_of(settings, now)
    if hold is None:
        raise RefusedError("nothing is held: no rollback holds the automations")
    releases = Releases(settings.registry)
    with releases.locked():
        releases.note(RESUME, hold.champion, who=who, why=why, now=now)
    return {"ended": hold.reason, "champion": hold.champion, "who": who, "why": why}
