"""A picture of metrics over releases: what each would serve, beside popularity, on its own test."""

from collections.abc import Sequence
from html import escape
from typing import Any, Final

from contracts.atomic import write_text
from contracts.settings import Settings

RELEASES: Final = "releases"
"""Key of the artifact in the Prefect UI."""
NEWEST: Final = 24
"""So many releases are shown: more would not be told apart."""

Figures = dict[str, Any]
_WIDTH, _HEIGHT, _LEFT, _RIGHT = 720, 190, 64, 16
_COLORS: Final = {
    "champion": "#1d5fbf",
    "retired": "#7ba3dc",
    "challenger": "#e0962a",
    "refused": "#cc3e30",
}
_STYLE: Final = (
    "text{font:12px system-ui,sans-serif;fill:#333}.title{font-weight:600}.axis{stroke:#ccc}"
    ".floor{stroke:#999;fill:none;stroke-dasharray:4 3}.served{stroke:#7ba3dc;fill:none}"
    ".whisker{stroke:#1d5fbf;fill:none}"
)


def release_figures(settings: Settings) -> list[Figures]:
    """Return of the newest releases, oldest first, what `amalgam releases` and the picture show.

    version, status, data_end, serves, and of what is served: ndcg@10, that of popularity, and the
    relative lift over it with its 95 % interval; None where a release has no such figure.
    """
    from services.registry import Releases

    found = []
    for info in Releases(settings.registry).list()[-NEWEST:]:
        against = info.metrics.get("vs_popularity") or {}
        floor = against.get("reference")
        lift, lower, upper = (
            against[name] / floor if floor and name in against else None
            for name in ("difference", "lower", "upper")
        )
        found.append({
            "version": info.version,
            "status": info.status,
            "data_end": None if info.data_end is None else f"{info.data_end:%Y-%m-%d}",
            "serves": info.metrics.get("serves"),
            "ndcg@10": info.metrics.get("ndcg@10"),
            "popularity": floor,
            "lift": lift,
            "lift_bounds": None if lower is None or upper is None else [lower, upper],
        })
    return found


def lift_text(lift: float | None, bounds: Sequence[float] | None) -> str:
    """Return a relative lift with its interval as people read it.

    >>> lift_text(0.251, (0.1, 0.4)), lift_text(-0.02, None), lift_text(None, None)
    ('+25.1% (+10.0% to +40.0%)', '-2.0%', '-')
    """
    if lift is None:
        return "-"
    return f"{lift:+.1%}" + (" ({:+.1%} to {:+.1%})".format(*bounds) if bounds else "")


def draw_releases(settings: Settings) -> dict[str, Any]:
    """Draw the releases as reports/training/releases.svg; return the path, picture and figures."""
    figures = release_figures(settings)
    path = settings.reports / "training" / "releases.svg"
    drawn = picture(figures)
    write_text(path, drawn)
    return {"picture": str(path), "svg": drawn, "releases": figures}


def picture(figures: Sequence[Figures]) -> str:
    """Return an SVG that needs nothing else: NDCG@10 beside popularity's, and below it the lift.

    A release without figures keeps its place and has no point.
    """
    height = 2 * _HEIGHT + 90
    places = _places(len(figures))
    note = "Release, and the day to which it learnt. Each is judged on the weeks before that day."
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {_WIDTH} {height}' "
        f"width='{_WIDTH}' height='{height}' role='img' aria-label='Metrics over releases'>"
        f"<style>{_STYLE}</style><rect width='{_WIDTH}' height='{height}' fill='#fff'/>"
        f"{_quality(figures, places)}{_lift(figures, places)}{_names(figures, places)}"
        f"{_legend(height - 34)}<text x='{_LEFT}' y='{height - 8}'>{note}</text></svg>\n"
    )


def _names(figures: Sequence[Figures], places: Sequence[float]) -> str:
    """Return the versions, and as many of the days as have room."""
    every = -(-len(figures) // 8)
    versions = "".join(
        f"<text x='{x:.1f}' y='{2 * _HEIGHT + 14}' text-anchor='middle'>"
        f"{escape(found['version'])}</text>"
        for x, found in zip(places, figures, strict=True)
    )
    days = "".join(
        f"<text x='{x:.1f}' y='{2 * _HEIGHT + 30}' text-anchor='middle'>"
        f"{escape(found['data_end'] or '')}</text>"
        for place, (x, found) in enumerate(zip(places, figures, strict=True))
        if place % every == 0
    )
    return versions + days


def _quality(figures: Sequence[Figures], places: Sequence[float]) -> str:
    values = [(found["ndcg@10"], found["popularity"]) for found in figures]
    known = [value for pair in values for value in pair if value is not None]
    scale = _Scale(0.0, max(known, default=0.0) or 1.0, top=0)
    served = [(x, scale(v)) for x, (v, _) in zip(places, values, strict=True) if v is not None]
    floor = [(x, scale(v)) for x, (_, v) in zip(places, values, strict=True) if v is not None]
    return (
        scale.axis("NDCG@10 of what is served; dashed: popularity", "{:.3f}".format)
        + _line(floor, "floor")
        + _line(served, "served")
        + _points(figures, places, "ndcg@10", scale)
    )


def _lift(figures: Sequence[Figures], places: Sequence[float]) -> str:
    ends = [end for found in figures for end in found["lift_bounds"] or ()]
    lifts = [found["lift"] for found in figures if found["lift"] is not None]
    low, high = min([0.0, *ends, *lifts]), max([0.0, *ends, *lifts])
    scale = _Scale(low, high if high > low else 1.0, top=_HEIGHT)
    whiskers = "".join(
        f"<path class='whisker' d='M{x:.1f} {scale(low):.1f}V{scale(high):.1f}"
        f"M{x - 4:.1f} {scale(low):.1f}h8M{x - 4:.1f} {scale(high):.1f}h8'/>"
        for x, found in zip(places, figures, strict=True)
        for low, high in ([found["lift_bounds"]] if found["lift_bounds"] else [])
    )
    zero = scale(0.0)
    return (
        scale.axis("Lift over popularity, 95 % interval", "{:+.0%}".format)
        + f"<path class='floor' d='M{_LEFT} {zero:.1f}H{_WIDTH - _RIGHT}'/>"
        + whiskers
        + _points(figures, places, "lift", scale)
    )


class _Scale:
    """Values of one panel, whose upper edge is `top`, to heights."""

    def __init__(self, low: float, high: float, *, top: float) -> None:
        self.low, self.high, self.top = low, high, top

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return self.top + _HEIGHT - 16 - share * (_HEIGHT - 56)

    def axis(self, title: str, number: Any) -> str:
        """Return the panel's title, and three lines with their values."""
        lines = "".join(
            f"<path class='axis' d='M{_LEFT} {self(value):.1f}H{_WIDTH - _RIGHT}'/>"
            f"<text x='{_LEFT - 6}' y='{self(value) + 4:.1f}' text-anchor='end'>"
            f"{number(value)}</text>"
            for value in (self.low, (self.low + self.high) / 2, self.high)
        )
        return f"<text class='title' x='{_LEFT}' y='{self.top + 18}'>{title}</text>{lines}"


def _places(n: int) -> list[float]:
    step = (_WIDTH - _LEFT - _RIGHT) / max(n, 1)
    return [_LEFT + step * (place + 0.5) for place in range(n)]


def _line(points: Sequence[tuple[float, float]], name: str) -> str:
    if len(points) < 2:
        return ""
    return f"<path class='{name}' d='M{'L'.join(f'{x:.1f} {y:.1f}' for x, y in points)}'/>"


def _points(figures: Sequence[Figures], places: Sequence[float], name: str, scale: _Scale) -> str:
    return "".join(
        f"<circle cx='{x:.1f}' cy='{scale(found[name]):.1f}' r='5' "
        f"fill='{_COLORS[found['status']]}'><title>{_told(found)}</title></circle>"
        for x, found in zip(places, figures, strict=True)
        if found[name] is not None
    )


def _told(found: Figures) -> str:
    return escape(f"release {found['version']}, {found['status']}, serves {found['serves']}")


def _legend(height: float) -> str:
    return "".join(
        f"<circle cx='{_LEFT + 6 + 100 * n}' cy='{height - 4}' r='5' fill='{color}'/>"
        f"<text x='{_LEFT + 16 + 100 * n}' y='{height}'>{status}</text>"
        for n, (status, color) in enumerate(_COLORS.items())
    )
