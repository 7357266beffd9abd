"""What the prediction log keeps of an answer: a line a place."""

from datetime import datetime
from typing import Any

from contracts import columns as c
from services.arms import Chosen
from services.engine import Answer


def exposure_lines(
    chosen: Chosen,
    answer: Answer,
    request_id: str,
    user: str | None,
    session: str | None,
    now: datetime,
) -> list[dict[str, Any]]:
    """Return one line a place, as the columns of `prediction_log`.

    Nothing within a list is explored, so the propensity is that of the arm: 1 outside an
    experiment.
    """
    engine, moment = chosen.engine, now.isoformat(timespec="microseconds")
    return [
        {
            c.REQUEST_ID: request_id,
            c.POSITION: position,
            c.USER_ID: user,
            c.SESSION_ID: session,
            c.ITEM_ID: place.item_id,
            c.SCORE: place.score,
            c.BASE_SCORES: place.base_scores,
            c.RELEASE: engine.version,
            c.SNAPSHOT: engine.snapshot,
            c.RUNG: answer.rung,
            c.EXPERIMENT_ARM: chosen.arm,
            c.PROPENSITY: chosen.propensity,
            c.EVENT_TIMESTAMP: moment,
        }
        for position, place in enumerate(answer.places, start=1)
    ]
