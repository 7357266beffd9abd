"""Daily updates from kept facts against full builds: equal bytes, whatever the batches, and only
what is new is read."""

import dataclasses
import json
import shutil
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contracts import columns as c
from contracts.errors import BadInputError
from contracts.tables import INTERACTIONS, REVIEWS
from features import item_cache
from features.items import build_item_features, update_item_features
from features.snapshot import current_snapshot, publish_snapshot
from features.sources import LakeFiles
from tests.features.shops import Click, as_bytes, at, interactions, lake, random_clicks

DAY = 86_400_000_000
ITEMS = [
    {
        c.ITEM_ID: f"i{item}",
        c.VALID_FROM: at(5 * item + 30 * row + 0.3),
        c.TITLE: "t",
        c.PRICE: 2.0 + item + row,
        c.CATEGORY: "a",
        c.AVAILABLE: row % 2 == 0,
    }
    for item in range(4)
    for row in range(4)
]


def reviews(seed: int, n: int, days: float) -> list[dict]:
    rng = np.random.default_rng(seed)
    texts = ["Absolutely love it!", "Very disappointed.", "质量很好", None, ""]
    return [
        {
            c.REVIEW_ID: f"r{seed}-{index}",
            c.ITEM_ID: f"i{rng.integers(6)}",
            c.USER_ID: f"u{rng.integers(4)}",
            c.RATING: float(rng.integers(1, 6)),
            c.TEXT: texts[rng.integers(len(texts))],
            c.EVENT_TIMESTAMP: at(float(rng.random() * days)),
        }
        for index in range(n)
    ]


class Shop:
    """A lake that grows by batches; each writes new files beside the old ones."""

    def __init__(self, root: Path, *, items: Sequence[dict] = ITEMS) -> None:
        self.root, self.batches = root, 0
        self.files = lake(root, items=items)

    def grow(self, clicks: Sequence[Click], said: Sequence[dict] = ()) -> LakeFiles:
        """Append rows; return the files that came."""
        self.batches += 1
        months: dict[str, list[dict]] = {}
        for row in interactions(clicks):
            months.setdefault(f"event_month={row[c.EVENT_TIMESTAMP]:%Y-%m}", []).append(row)
        added = LakeFiles(
            interactions=tuple(
                self._write(Path("interactions") / month, INTERACTIONS.schema, rows)
                for month, rows in sorted(months.items())
            ),
            items=(),
            reviews=(self._write(Path("reviews"), REVIEWS.schema, said),) if said else (),
        )
        self.files = dataclasses.replace(
            self.files,
            interactions=self.files.interactions + added.interactions,
            reviews=self.files.reviews + added.reviews,
        )
        return added

    def _write(self, folder: Path, schema: pa.Schema, rows: Sequence[dict]) -> str:
        (self.root / folder).mkdir(parents=True, exist_ok=True)
        path = self.root / folder / f"batch-{self.batches:03d}.parquet"
        pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), path)
        return str(path)

    def full(self, start: datetime, now: datetime) -> bytes:
        """Rows built from all files, in a folder of its own."""
        out = self.root / "full" / "item_features"
        shutil.rmtree(out.parent, ignore_errors=True)
        build_item_features(self.files, start=start, end=now + (at(1e-9) - at()), out=out)
        return as_bytes(pq.read_table(out))


def test_daily_updates_equal_full_builds_byte_for_byte(tmp_path, monkeypatch):
    monkeypatch.setattr(item_cache, "MOST_PARTS", 3)  # so that parts are added up on the way
    rng = np.random.default_rng(0)
    clicks, said = random_clicks(0, n=700, days=75, moments=350), reviews(0, 60, 75)
    # A batch holds what arrived in it: mostly of its own days, some late, some of the future.
    days = 15
    seconds = rng.integers(0, 86_400, 5)
    late = rng.choice([0, 0, 0, 2, -1], len(clicks))
    of_click = [
        min(4, max(0, e.at // (days * DAY) + by)) for e, by in zip(clicks, late, strict=True)
    ]
    of_review = rng.integers(0, 5, len(said))
    shop, since = Shop(tmp_path), None
    out, cache = tmp_path / "item_features", tmp_path / "facts"
    for batch in range(5):
        added = shop.grow(
            [e for e, of in zip(clicks, of_click, strict=True) if of == batch],
            [row for row, of in zip(said, of_review, strict=True) if of == batch],
        )
        now = at(days * (batch + 1), seconds=int(seconds[batch]))
        start, by_name = at(days * batch), batch % 2 == 0
        done = update_item_features(
            shop.files,
            None if by_name else added,
            since=None if by_name else since,
            now=now,
            start=start,
            out=out,
            cache=cache,
        )
        assert done.read.full == (batch == 0)
        assert as_bytes(pq.read_table(out)) == shop.full(start, now)
        assert done.rows == pq.read_table(out).num_rows
        since = now
    assert len(json.loads((cache / "facts.json").read_text())["parts"]) == 2


def test_only_what_is_new_is_read(tmp_path):
    shop = Shop(tmp_path)
    shop.grow(random_clicks(1, n=300, days=40))
    where = {"out": tmp_path / "item_features", "cache": tmp_path / "facts"}
    first = update_item_features(shop.files, now=at(50), **where)
    assert (first.read.full, first.read.events) == (True, 300)
    again = update_item_features(shop.files, now=at(50), **where)
    assert (again.read.full, again.read.events) == (False, 0)
    shop.grow([Click("late", "u0", None, "i0", "purchase", 10 * DAY)])
    shop.grow([Click("new", "u0", None, "i0", "view", 51 * DAY)])
    shop.grow([Click("future", "u0", None, "i0", "view", 60 * DAY)])
    third = update_item_features(shop.files, now=at(52), **where)
    assert (third.read.full, third.read.events) == (False, 2)
    # The event of the future lies in an old file by now.
    fourth = update_item_features(shop.files, now=at(61), **where)
    assert (fourth.read.full, fourth.read.events) == (False, 1)
    assert as_bytes(pq.read_table(where["out"])) == shop.full(at(61), at(61))


def test_what_the_cache_cannot_answer_is_built_whole(tmp_path):
    shop = Shop(tmp_path)
    shop.grow(random_clicks(2, n=200, days=40), reviews(2, 20, 40))
    cache = tmp_path / "facts"
    where = {"out": tmp_path / "item_features", "cache": cache}

    def is_full(now: datetime, **more) -> bool:
        return update_item_features(shop.files, now=now, **where, **more).read.full

    none = LakeFiles((), ())
    assert is_full(at(30))
    assert not is_full(at(31))
    assert not is_full(at(32), added=none, since=at(31))
    assert is_full(at(33), added=none, since=at(31.5))  # another moment than the cache's
    assert is_full(at(20))  # earlier than what it holds
    shutil.rmtree(tmp_path / "review_sentiment")  # as erase does, with the cache
    shutil.rmtree(cache)
    assert is_full(at(34))
    next(cache.glob("part-*/bought.parquet")).unlink()
    assert is_full(at(35))
    (cache / "facts.json").write_text("{")
    assert is_full(at(36))
    # A compacted or rewritten lake: a file the facts were read from is gone.
    old = Path(shop.files.interactions[0])
    new = old.with_name("compacted.parquet")
    old.rename(new)
    files = tuple(str(new) if path == str(old) else path for path in shop.files.interactions)
    shop.files = dataclasses.replace(shop.files, interactions=files)
    assert is_full(at(37))
    (cache / ".part-dead").mkdir()
    assert not is_full(at(38))
    assert not (cache / ".part-dead").exists()
    assert as_bytes(pq.read_table(where["out"])) == shop.full(at(38), at(38))
    with pytest.raises(BadInputError, match="after now"):
        update_item_features(shop.files, now=at(3), start=at(4), **where)


def test_a_snapshot_from_kept_facts_is_the_one_from_all_files(tmp_path):
    shop = Shop(tmp_path)
    clicks = random_clicks(5, n=500, days=60)
    cache = tmp_path / "facts"
    shop.grow([e for e in clicks if e.at < 30 * DAY])
    update_item_features(shop.files, now=at(31.3), out=tmp_path / "a/rows", cache=cache)
    shop.grow([e for e in clicks if e.at >= 30 * DAY])
    for now in (at(40.6), at(59)):
        kept = publish_snapshot(shop.files, now=now, root=tmp_path / "a", cache=cache)
        plain = publish_snapshot(shop.files, now=now, root=tmp_path / "b")
        assert kept == plain  # the id holds the digest of the content
    assert current_snapshot(tmp_path / "a").rows == current_snapshot(tmp_path / "b").rows > 0
