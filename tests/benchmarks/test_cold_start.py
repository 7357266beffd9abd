"""The benchmark of new items: histories and segments, by hand."""

import numpy as np
import pyarrow as pa

from benchmarks import cold_start
from contracts import columns as c
from contracts.events import VIEW
from contracts.tables import TIMESTAMP
from models.base import PAD
from models.data import catalogue_from_arrow, training_data

DAY_US = 86_400_000_000


def test_histories_end_strictly_before_the_query() -> None:
    rows = [("b", "i1", 1), ("a", "i0", 1), ("a", "i2", 2), ("b", "i0", 3), ("a", "i1", 4)]
    users, items, days = zip(*rows, strict=True)
    events = pa.table({
        c.USER_ID: list(users),
        c.ITEM_ID: list(items),
        c.EVENT_TYPE: ["view"] * len(rows),
        c.EVENT_TIMESTAMP: pa.array([day * DAY_US for day in days], pa.int64()).cast(TIMESTAMP),
    })
    queries = pa.table({
        c.USER_ID: ["a", "a", "b", "b"],
        c.EVENT_TIMESTAMP: pa.array([day * DAY_US for day in (4, 1, 9, 2)], pa.int64()).cast(
            TIMESTAMP
        ),
    })
    data = training_data(events, catalogue_from_arrow(None, events[c.ITEM_ID]), before_us=None)
    found = cold_start._histories(data, events, queries)
    assert [[item for item in row if item != PAD] for row in found.items.tolist()] == [
        [0, 2],
        [],
        [1, 0],
        [1],
    ]
    assert found.ages_days[0, -2:].tolist() == [3.0, 2.0]
    assert (found.event_types[found.items != PAD] == VIEW).all()


def test_segments_are_judged_on_their_own_targets() -> None:
    targets = np.array([[1, 1, 0, 0], [0, 0, 1, 0]], bool)
    cold = np.array([False, True, False, False])
    lists = np.array([[0, 3, 1], [3, PAD, PAD]], np.int32)
    found = cold_start._judge(lists, targets, cold)
    assert found["recall_all"] == 0.5  # both of the first, none of the second
    assert found["recall_cold"] == 1.0  # one query has a cold target
    assert found["ndcg_cold"] == 0.5  # at the third place
    assert found["recall_warm"] == 0.5
    assert found["cold_share_of_lists"] == 0.25
