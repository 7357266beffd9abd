"""Steps that move the champion; each is done only when every live worker answers from it."""

from datetime import datetime
from typing import TYPE_CHECKING, Any

from contracts.settings import Settings

if TYPE_CHECKING:
    from services.registry import ChampionPointer, Releases

SERVED_SECONDS = 60
"""How long a move waits for every live worker to answer from the release."""


def move_champion(
    settings: Settings,
    version: str,
    now: datetime,
    who: str,
    why: str,
    override: str | None,
    *,
    experiment: str | None = None,
    result: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Make a release the champion; one that the gate refused needs an `override` reason.

    `experiment` and `result`: the one that is to be ended by it, and what it measured.
    """
    from services.registry import Releases

    releases = Releases(settings.registry)
    before = releases.champion()
    pointer = releases.promote(
        version,
        who=who,
        why=why,
        now=now,
        override=override,
        experiment=experiment,
        result=result,
    )
    return _served(releases, before, pointer)


def return_champion(
    settings: Settings, version: str | None, now: datetime, who: str, why: str
) -> dict[str, Any]:
    """Return to a former champion, by default to the one before the present."""
    from services.registry import Releases

    releases = Releases(settings.registry)
    before = releases.champion()
    return _served(releases, before, releases.rollback(version, who=who, why=why, now=now))


def _served(
    releases: "Releases", before: "ChampionPointer | None", pointer: "ChampionPointer"
) -> dict[str, Any]:
    workers = releases.wait_until_served(pointer.version, SERVED_SECONDS)
    return {
        "action": pointer.action,
        "moved": before is None or before.revision != pointer.revision,
        "version": pointer.version,
        "previous": pointer.previous,
        "who": pointer.who,
        "why": pointer.why,
        "workers": len(workers),
    }
