"""User features from raw events, one at a time, in plain Python: what the real ones must equal."""

import cmath
import math
from collections.abc import Sequence

from contracts.state import MICROS_PER_DAY, STATE_DAYS
from tests.features.shops import START_US, Click, number, units_of

GROUPS = {
    "views": ("view", "click", "search_click"),
    "carts": ("cart",),
    "purchases": ("purchase",),
    "returns": ("return",),
}
RECENCY = {
    "view": GROUPS["views"],
    "cart": ("cart",),
    "purchase": ("purchase",),
    "return": ("return",),
}


def features_as_of(history: Sequence[Click], now_us: int, kept: int) -> dict[str, float]:
    """Features of a shopper whose history before `now` is `history`, in order; the newest `kept`
    events are listed."""
    listed = list(history)[-kept:]
    return {
        **_windows(history, now_us),
        **_recency(listed, now_us),
        **_habits(listed),
        "tenure_days": _tenure(history, now_us),
    }


def _time(click: Click) -> int:
    return START_US + click.at


def _windows(history: Sequence[Click], now_us: int) -> dict[str, float]:
    today = now_us // MICROS_PER_DAY
    last = max((_time(click) // MICROS_PER_DAY for click in history), default=today)
    # A state keeps the days up to its last event; what is older than both is gone.
    kept = [click for click in history if _time(click) // MICROS_PER_DAY > last - STATE_DAYS]
    found: dict[str, float] = {}
    for days in (1, 7, 30, 90):
        inside = [c for c in kept if today - days < _time(c) // MICROS_PER_DAY <= today]
        for group, kinds in GROUPS.items():
            mine = [click for click in inside if click.kind in kinds]
            found[f"{group}_{days}d"] = len(mine)
            if group in {"carts", "purchases"}:
                found[f"{group}_spend_{days}d"] = sum(
                    (click.price or 0.0) * units_of(click) for click in mine
                )
        if days == 90:
            found["active_days_90d"] = len({_time(click) // MICROS_PER_DAY for click in inside})
    return found


def _recency(listed: Sequence[Click], now_us: int) -> dict[str, float]:
    def since(kinds: Sequence[str] | None) -> float:
        times = [_time(c) for c in listed if kinds is None or c.kind in kinds]
        return (now_us - max(times)) / MICROS_PER_DAY if times else math.nan

    return {"days_since_event": since(None)} | {
        f"days_since_{name}": since(kinds) for name, kinds in RECENCY.items()
    }


def _habits(listed: Sequence[Click]) -> dict[str, float]:
    bought = [click for click in listed if click.kind == "purchase"]
    moments = len({click.at for click in bought})
    dislikes = sum(click.kind in {"dislike", "hide"} for click in listed)
    ratings = [number(click.rating) for click in listed if click.rating is not None]
    items = {click.item for click in listed}
    returned = sum(click.kind == "return" for click in listed)
    return {
        "history_length": len(listed),
        "distinct_items": len(items),
        "repeat_share": 1 - len(items) / len(listed) if listed else 0.0,
        "purchase_moments": moments,
        "basket_items": _over(len(bought), moments),
        "basket_units": _over(sum(units_of(click) for click in bought), moments),
        "return_share": _over(returned, len(bought)),
        "dislikes": dislikes,
        "dislike_share": _over(dislikes, len(listed)),
        "ratings": len(ratings),
        "rating_mean": _over(sum(ratings), len(ratings)),
        **_prices(listed),
        **_clock(listed),
    }


def _over(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def _prices(listed: Sequence[Click]) -> dict[str, float]:
    priced = [click for click in listed if click.price is not None]
    serious = [click for click in priced if click.kind in {"purchase", "cart"}]
    logs = [math.log(1 + number(click.price)) for click in serious or priced]
    mean = _over(sum(logs), len(logs))
    spread = math.sqrt(sum((x - mean) ** 2 for x in logs) / len(logs)) if logs else math.nan
    return {"price_level": mean, "price_spread": spread}


def _clock(listed: Sequence[Click]) -> dict[str, float]:
    minutes = [_time(click) // 60_000_000 % 1440 for click in listed]
    shares = {
        f"{part}_share": _over(sum(minute // 360 == place for minute in minutes), len(minutes))
        for place, part in enumerate(("night", "morning", "afternoon", "evening"))
    }
    directions = [cmath.exp(2j * math.pi * minute / 1440) for minute in minutes]
    mean = sum(directions) / len(directions) if directions else complex(math.nan)
    hour = cmath.phase(mean) / (2 * math.pi) * 24 % 24 if abs(mean) > 1e-9 else math.nan
    weekend = sum((_time(c) // MICROS_PER_DAY + 3) % 7 >= 5 for c in listed)
    return {
        **shares,
        "hour_mean": hour,
        "hour_concentration": abs(mean),
        "weekend_share": _over(weekend, len(listed)),
    }


def _tenure(history: Sequence[Click], now_us: int) -> float:
    times = [_time(click) for click in history]
    return (now_us - min(times)) / MICROS_PER_DAY if times else math.nan
