"""Category paths, `a > b > c`."""

from typing import Final

_SEPARATOR: Final = ">"


def category_levels(path: str) -> list[str]:
    """Return every beginning of a category path, shortest first.

    >>> category_levels("home > kitchen>pans")
    ['home', 'home > kitchen', 'home > kitchen > pans']
    """
    levels = [level.strip() for level in path.split(_SEPARATOR) if level.strip()]
    return [f" {_SEPARATOR} ".join(levels[: n + 1]) for n in range(len(levels))]
