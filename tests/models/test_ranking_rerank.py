"""Places that are kept, against the obvious way."""

import numpy as np
import pytest

from contracts.errors import BadInputError
from models.ranking.rerank import Quota, keep_places


def by_hand(marked: list[bool], k: int, n: int) -> list[int]:
    chosen = list(range(min(k, len(marked))))
    outside = [place for place in range(k, len(marked)) if marked[place]]
    while sum(marked[place] for place in chosen) < n and outside:
        lowest = [place for place in chosen if not marked[place]]
        if not lowest:
            break
        chosen.remove(lowest[-1])
        chosen.append(outside.pop(0))
    return sorted(chosen)


def test_the_best_marked_come_in_for_the_lowest_others() -> None:
    rng = np.random.default_rng(5)
    for _ in range(300):
        width, k = int(rng.integers(1, 12)), int(rng.integers(1, 9))
        n = int(rng.integers(0, k + 1))
        marked = rng.random((4, width)) < rng.random()
        found = keep_places(marked, k, n)
        assert found.tolist() == [by_hand(row, k, n) for row in marked.tolist()]


def test_a_share_that_is_none_is_refused() -> None:
    with pytest.raises(BadInputError, match=r"share = 1\.5"):
        Quota(np.ones(1, bool), 1.5)
