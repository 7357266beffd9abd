"""Charts of the report as inline SVG and HTML: nothing is fetched, nothing runs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

_ROW: Final = 26
_LETTER: Final = 7.0
_LABELS: Final = (110.0, 230.0)
_VALUES: Final = 176
_WIDTH: Final = 640


@dataclass(frozen=True)
class Bar:
    """A named value with bounds, when it has some; `mark` is the CSS class of what is stressed."""

    name: str
    value: float
    lower: float | None = None
    upper: float | None = None
    mark: str = ""


def bars(values: Sequence[Bar], label: str, number: Callable[[float], str]) -> str:
    """Return horizontal bars from 0, whiskers where there are bounds, the value beside each."""
    highest = max((max(bar.value, bar.upper or 0.0) for bar in values), default=0.0) or 1.0
    return _svg(values, label, lambda value: max(value, 0.0) / highest, number, from_zero=True)


def differences(values: Sequence[Bar], label: str, number: Callable[[float], str]) -> str:
    """Return points with whiskers on both sides of a line at 0: what lies clear of it is a
    difference.
    """
    ends = [end for bar in values for end in (bar.value, bar.lower, bar.upper) if end is not None]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    span = (high - low) or 1.0
    return _svg(values, label, lambda value: (value - low) / span, number, from_zero=False)


def _svg(
    values: Sequence[Bar],
    label: str,
    scale: Callable[[float], float],
    number: Callable[[float], str],
    *,
    from_zero: bool,
) -> str:
    longest = max((len(bar.name) for bar in values), default=0)
    labels = min(max(_LABELS[0], _LETTER * longest), _LABELS[1])
    width = _WIDTH - labels - _VALUES - 16

    def at(value: float) -> float:
        return labels + 8 + width * scale(value)

    height = _ROW * len(values) + 6
    zero = at(0.0)
    rows = [f"<line class='zero' x1='{zero:.1f}' x2='{zero:.1f}' y1='2' y2='{height - 2}'/>"]
    for place, bar in enumerate(values):
        middle = place * _ROW + _ROW / 2 + 3
        rows.append(
            f"<g class='{bar.mark}'>"
            f"<text x='{labels:.0f}' y='{middle + 4}' text-anchor='end'>{escape(bar.name)}</text>"
        )
        if from_zero:
            long = max(at(bar.value) - zero, 1.0)
            rows.append(
                f"<rect x='{zero:.1f}' y='{middle - 8}' width='{long:.1f}' height='16' rx='2'/>"
            )
        if bar.lower is not None and bar.upper is not None:
            rows.append(_whisker(at(bar.lower), at(bar.upper), middle))
        if not from_zero:
            rows.append(f"<circle cx='{at(bar.value):.1f}' cy='{middle}' r='4'/>")
        text = number(bar.value)
        if bar.lower is not None and bar.upper is not None:
            text += f"  ({number(bar.lower)} to {number(bar.upper)})"
        rows.append(
            f"<text class='value' x='{_WIDTH - _VALUES}' y='{middle + 4}'>{escape(text)}</text></g>"
        )
    return (
        f"<svg role='img' aria-label='{escape(label)}' viewBox='0 0 {_WIDTH} {height}' "
        f"width='{_WIDTH}' height='{height}'>{''.join(rows)}</svg>"
    )


def _whisker(left: float, right: float, middle: float) -> str:
    return (
        f"<path class='whisker' d='M{left:.1f} {middle}H{right:.1f}M{left:.1f} {middle - 4}v8"
        f"M{right:.1f} {middle - 4}v8'/>"
    )


def heat_table(
    names: Sequence[str],
    heads: Sequence[str],
    cells: Sequence[Sequence[str]],
    shades: Sequence[Sequence[float | None]],
    marked: str = "",
) -> str:
    """Return a table whose cells are shaded: `shades` go from -1 (red) over 0 (white) to 1 (green),
    None is not shaded. The row of `marked` is stressed.
    """
    head = "".join(f"<th>{text}</th>" for text in heads)
    rows = "".join(
        f"<tr{_stressed(name == marked)}><th>{escape(name)}</th>"
        + "".join(
            f"<td class='n'{_shade(shade)}>{escape(text)}</td>"
            for text, shade in zip(texts, levels, strict=True)
        )
        + "</tr>"
        for name, texts, levels in zip(names, cells, shades, strict=True)
    )
    return f"<div class='wide'><table><tr><th></th>{head}</tr>{rows}</table></div>"


def _stressed(yes: bool) -> str:
    return " class='served'" if yes else ""


def _shade(level: float | None) -> str:
    if level is None:
        return ""
    color = "38,139,80" if level > 0 else "204,62,48"
    return f" style='background:rgba({color},{min(abs(level), 1.0) * 0.55:.2f})'"


def spread(values: Sequence[float | None], *, higher_is_better: bool = True) -> list[float | None]:
    """Return the shade of each value between the lowest (0) and the highest (1); None stays None.

    >>> spread([1.0, 3.0, None, 2.0])
    [0.0, 1.0, None, 0.5]
    >>> spread([1.0, 3.0], higher_is_better=False)
    [1.0, 0.0]
    """
    known = [value for value in values if value is not None]
    low, high = min(known, default=0.0), max(known, default=0.0)
    span = (high - low) or 1.0
    shares = [None if value is None else (value - low) / span for value in values]
    if higher_is_better:
        return shares
    return [None if share is None else 1.0 - share for share in shares]
