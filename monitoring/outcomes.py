"""What came of the lists of a window, by release and rung, with how sure that is."""

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

from monitoring.lists import Lists


@dataclass(frozen=True)
class OutcomeRow:
    """What came of one release's lists on one rung in the window; bounds are 95 % (Wilson)."""

    release: str
    rung: str
    requests: int
    ctr: float
    ctr_bounds: tuple[float, float]
    conversion: float
    conversion_bounds: tuple[float, float]
    ndcg: float | None


@dataclass
class Sums:
    """Sums over rows and requests; `ndcg` over the `rated` requests, those that have one."""

    rows: int = 0
    hits: int = 0
    requests: int = 0
    sold: int = 0
    ndcg: float = 0.0
    rated: int = 0


@dataclass
class Outcomes:
    """Sums by (release, rung), added up part by part."""

    sums: defaultdict[tuple[str, str], Sums] = field(default_factory=lambda: defaultdict(Sums))

    def add(self, lists: Lists) -> None:
        """Add the rows of whole requests."""
        first, bought, ndcg = lists.outcomes()
        for release, rung in set(zip(lists.release[first], lists.rung[first], strict=True)):
            places = (lists.release == release) & (lists.rung == rung)
            requests = places[first]
            rated = ndcg[requests][np.isfinite(ndcg[requests])]
            sums = self.sums[str(release), str(rung)]
            sums.rows += int(places.sum())
            sums.hits += int((lists.grade[places] > 0).sum())
            sums.requests += int(requests.sum())
            sums.sold += int(bought[requests].sum())
            sums.ndcg += float(rated.sum())
            sums.rated += len(rated)

    def table(self) -> tuple[OutcomeRow, ...]:
        """Return a row each, most requests first."""
        found = [_row(*names, self.sums[names]) for names in sorted(self.sums)]
        return tuple(sorted(found, key=lambda row: -row.requests))


def wilson(hits: float, n: float) -> tuple[float, float]:
    """Return the 95 % interval of a share of n (Wilson 1927); (0, 1) of none.

    >>> [round(bound, 3) for bound in wilson(5, 10)]
    [0.237, 0.763]
    """
    if n <= 0:
        return 0.0, 1.0
    z = 1.959964
    middle = (hits + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * (hits * (n - hits) / n + z * z / 4) ** 0.5
    return max(middle - half, 0.0), min(middle + half, 1.0)


def _row(release: str, rung: str, sums: Sums) -> OutcomeRow:
    return OutcomeRow(
        release=release,
        rung=rung,
        requests=sums.requests,
        ctr=sums.hits / sums.rows,
        ctr_bounds=wilson(sums.hits, sums.rows),
        conversion=sums.sold / sums.requests,
        conversion_bounds=wilson(sums.sold, sums.requests),
        ndcg=sums.ndcg / sums.rated if sums.rated else None,
    )
