"""What is done to a ranking after the scores: places that are kept for some of the items."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contracts.errors import BadInputError

_DUST = 1e-9


@dataclass(frozen=True)
class Quota:
    """At least floor(share x k) of a list's k places go to items that are `marked`, if there are
    any.

    marked  (I,) bool, by item_index        share  from 0 to 1
    """

    marked: NDArray[np.bool_]
    share: float

    def __post_init__(self) -> None:
        """Refuse a share that is none (BadInputError)."""
        if not 0 <= self.share <= 1:
            raise BadInputError(f"quota: share = {self.share}: must be from 0 to 1")

    def places(self, k: int) -> int:
        """Return how many of k places are kept.

        >>> [Quota(np.ones(1, bool), 0.29).places(k) for k in (3, 10, 100)]
        [0, 2, 29]
        """
        return int(self.share * k + _DUST)  # 0.29 x 100 is a little less than 29


def keep_places(marked: NDArray[np.bool_], k: int, n: int) -> NDArray[np.int64]:
    """Return the (B, <= k) places of a ranking that make the list, in its order.

    `marked` (B, C) says of each place of the ranking, best first, whether it counts for the quota.
    The n best marked places are in, wherever they stand; the others are filled from the top. So a
    list whose first k places hold n marked ones is these k places.

    >>> keep_places(np.array([[False, False, False, True, False, True]]), k=3, n=1).tolist()
    [[0, 1, 3]]
    """
    n = min(n, k)
    kept = marked & (np.cumsum(marked, axis=1) <= n)
    room = k - kept.sum(axis=1, keepdims=True)
    chosen = kept | (~kept & (np.cumsum(~kept, axis=1) <= room))
    return np.argsort(~chosen, axis=1, kind="stable")[:, :k]
