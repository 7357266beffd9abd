"""The generated shop: same seed same bytes, and everything that later work relies on is in it."""

import gzip
import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pytest
from numpy.typing import NDArray

from contracts import columns as c
from contracts.errors import BadInputError, NotFoundError
from contracts.events import EVENT_CODES
from contracts.tables import INTAKE_TABLES, table_spec
from lake.generator import (
    FIRST_DAY,
    GENERATOR_VERSION,
    ShopFiles,
    generate_shop,
    true_ids,
    true_scores,
)
from lake.generator_world import World

# Changed bytes need a new GENERATOR_VERSION beside the new hash.
PINNED = {1: "e47e364e7275caeb79eacba73795b5f80bbde37ab2f850737ae96b67e3498aee"}
DAYS, SEASON = 120, 80


@dataclass(frozen=True)
class Shop:
    """A generated shop, read back as strings."""

    files: ShopFiles
    tables: dict[str, pa.Table]

    def column(self, table: str, name: str) -> NDArray[np.str_]:
        """One column, "" where empty."""
        values = self.tables[table][name].fill_null("")
        return np.array(values.to_pylist(), dtype=np.str_)


def _read(out: Path, name: str) -> pa.Table:
    wanted = [column for column in table_spec(name).schema.names if column != c.SOURCE]
    options = pa_csv.ConvertOptions(
        column_types=dict.fromkeys(wanted, pa.string()), strings_can_be_null=True, null_values=[""]
    )
    parts = []
    for path in sorted(out.glob(f"{name}-*.csv.gz")):
        table = pa_csv.read_csv(path, convert_options=options)
        assert table.column_names == wanted, path
        parts.append(table)
    return pa.concat_tables(parts)


def _digest(folder: Path) -> str:
    """Hash names and unpacked contents, so that the version of zlib does not matter."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        digest.update(path.name.encode() + b"\0")
        digest.update(gzip.decompress(data) if path.suffix == ".gz" else data)
    return digest.hexdigest()


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    folder = tmp_path_factory.mktemp("shop")
    files = generate_shop(folder / "out", folder / "truth", events=30_000, seed=3)
    return Shop(files, {name: _read(folder / "out", name) for name in INTAKE_TABLES})


@pytest.fixture(scope="module")
def clean(shop: Shop) -> Shop:
    """The shop without broken and repeated interactions, sorted by event id (order of making)."""
    table = shop.tables["interactions"]
    first = pa.table({c.EVENT_ID: table[c.EVENT_ID], "row": np.arange(len(table))})
    rows = first.group_by(c.EVENT_ID).aggregate([("row", "min")])["row_min"]
    table = table.take(rows).sort_by(c.EVENT_ID)
    known = pc.is_in(table[c.ITEM_ID], shop.tables["items"][c.ITEM_ID].combine_chunks())
    good = pc.and_(known, pc.is_in(table[c.EVENT_TYPE], pa.array(list(EVENT_CODES))))
    good = pc.and_(good, pc.starts_with(table[c.EVENT_TIMESTAMP], "2025-"))
    return Shop(shop.files, {**shop.tables, "interactions": table.filter(good)})


def test_bytes_are_pinned(tmp_path: Path) -> None:
    generate_shop(tmp_path / "out", tmp_path / "truth", events=1_000, seed=1)
    assert _digest(tmp_path / "out") == PINNED[GENERATOR_VERSION]


def test_same_seed_same_bytes_other_seed_other_bytes(tmp_path: Path) -> None:
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        folder = tmp_path / name
        generate_shop(folder / "out", folder / "truth", events=600, seed=seed, days=20)
    for kind in ("out", "truth"):
        one, same, other = (
            {path.name: path.read_bytes() for path in (tmp_path / name / kind).iterdir()}
            for name in ("a", "b", "c")
        )
        assert one == same
        assert one != other


@pytest.mark.parametrize(("events", "days"), [(1_000, 120), (5_000, 1), (4_000, 10), (3_000, 150)])
def test_size_is_near_what_was_asked(tmp_path: Path, events: int, days: int) -> None:
    seen: list[tuple[str, int, int]] = []
    files = generate_shop(
        tmp_path / "out",
        tmp_path / "truth",
        events=events,
        seed=2,
        days=days,
        progress=lambda what, done, total: seen.append((what, done, total)),
    )
    assert files.events == len(_read(tmp_path / "out", "interactions"))
    assert abs(files.events - events) <= 0.03 * events
    assert files.last_day - files.first_day == timedelta(days=days - 1)
    assert seen == [("days", day + 1, days) for day in range(days)]


def test_sizes_can_be_given_and_all_ids_are_known(shop: Shop, tmp_path: Path) -> None:
    files = generate_shop(tmp_path / "o", tmp_path / "t", events=500, seed=1, users=40, items=33)
    assert (files.users, files.items) == (40, 33)
    users, items = true_ids(shop.files.truth)
    assert set(shop.column("users", c.USER_ID)) == set(users)
    assert set(shop.column("items", c.ITEM_ID)) == set(items)
    assert set(shop.column("interactions", c.USER_ID)) <= {*users, ""}


def test_events_lie_in_their_day_and_in_order(clean: Shop) -> None:
    for path in sorted(clean.files.out.glob("interactions-*.csv.gz"))[:3]:
        day = path.name[len("interactions-") : -len(".csv.gz")]
        rows = gzip.decompress(path.read_bytes()).decode().splitlines()[1:]
        dates = [row.split(",")[4][:10] for row in rows]
        assert sum(date == day for date in dates) >= 0.95 * len(dates)
    times = clean.column("interactions", c.EVENT_TIMESTAMP)
    assert (times[:-1] <= times[1:]).all()


def test_sessions_run_down_the_funnel(clean: Shop) -> None:
    counts = dict(
        zip(*np.unique(clean.column("interactions", c.EVENT_TYPE), return_counts=True), strict=True)
    )
    assert counts["view"] > counts["click"] > counts["cart"] > counts["purchase"] > 500
    table = clean.tables["interactions"].filter(
        pc.is_valid(clean.tables["interactions"]["session_id"])
    )
    keys = [c.SESSION_ID, c.ITEM_ID]
    firsts = {}
    for kind in ("view", "search_click", "click", "cart", "purchase"):
        rows = table.filter(pc.equal(table[c.EVENT_TYPE], kind)).select([*keys, c.EVENT_TIMESTAMP])
        grouped = rows.group_by(keys).aggregate([(c.EVENT_TIMESTAMP, "min")])
        firsts[kind] = {(s, i): t for s, i, t in zip(*grouped.to_pydict().values(), strict=True)}
    looked = firsts["view"] | firsts["search_click"]
    for kind, before in (
        ("click", looked),
        ("cart", firsts["click"]),
        ("purchase", firsts["cart"]),
    ):
        in_order = [before.get(key, "9") < time for key, time in firsts[kind].items()]
        assert np.mean(in_order) > 0.98, kind  # a broken row can take a step out


def test_a_checkout_is_one_basket(clean: Shop) -> None:
    table = clean.tables["interactions"]
    bought = table.filter(pc.equal(table[c.EVENT_TYPE], "purchase"))
    times = bought.group_by(c.SESSION_ID).aggregate([
        (c.EVENT_TIMESTAMP, "count_distinct"),
        (c.EVENT_TIMESTAMP, "count"),
    ])
    assert pc.max(times["event_timestamp_count_distinct"]).as_py() == 1
    assert pc.max(times["event_timestamp_count"]).as_py() > 1


def test_some_sessions_log_in_midway_and_stay_logged_in(clean: Shop) -> None:
    sessions = clean.column("interactions", c.SESSION_ID)
    keep = sessions != ""
    known = clean.column("interactions", c.USER_ID)[keep] != ""
    _, place = np.unique(sessions[keep], return_inverse=True)
    order = np.argsort(place, kind="stable")
    place, known = place[order], known[order]
    first = np.flatnonzero(np.r_[True, place[1:] != place[:-1]])
    size, logged = np.diff(np.r_[first, len(place)]), np.add.reduceat(known, first)
    assert 0.15 < np.mean((logged > 0) & (logged < size)) < 0.35
    assert 0.1 < np.mean(logged == 0) < 0.3
    same = place[1:] == place[:-1]
    assert not (same & known[:-1] & ~known[1:]).any()


def test_reactions_repeats_reviews_and_searches(clean: Shop) -> None:
    kinds = clean.column("interactions", c.EVENT_TYPE)
    users, items = clean.column("interactions", c.USER_ID), clean.column("interactions", c.ITEM_ID)
    bought = set(zip(users[kinds == "purchase"], items[kinds == "purchase"], strict=True))
    for kind, least in (("return", 20), ("rating", 100)):
        rows = kinds == kind
        assert rows.sum() > least
        # Logged in: also those bought before a log-in or through a broken row are few.
        assert (
            np.mean([pair in bought for pair in zip(users[rows], items[rows], strict=True)]) > 0.9
        )
    stars = clean.column("interactions", c.RATING)[kinds == "rating"]
    assert {"2", "3", "4", "5"} <= set(stars) <= {"1", "2", "3", "4", "5", "99"}
    assert len(clean.tables["reviews"]) > 50
    known = (kinds == "purchase") & (users != "")
    pairs = list(zip(users[known], items[known], strict=True))
    assert 1 - len(set(pairs)) / len(pairs) > 0.1
    clicked = clean.column("searches", c.CLICKED_ITEMS)
    assert abs(np.sum(clicked != "") - np.sum(kinds == "search_click")) < 0.02 * len(clicked)
    assert (clicked == "").any()


def test_refills_come_back_in_their_own_rhythm(clean: Shop) -> None:
    bought = clean.column("interactions", c.EVENT_TYPE) == "purchase"
    names = (c.USER_ID, c.ITEM_ID, c.EVENT_TIMESTAMP)
    rows = sorted(zip(*(clean.column("interactions", name)[bought] for name in names), strict=True))
    category = dict(
        zip(clean.column("items", c.ITEM_ID), clean.column("items", c.CATEGORY), strict=True)
    )
    gaps: dict[str, list[int]] = {}
    for (user, item, time), (next_user, next_item, next_time) in zip(
        rows[:-1], rows[1:], strict=True
    ):
        if user and (user, item) == (next_user, next_item):
            days = datetime.fromisoformat(next_time) - datetime.fromisoformat(time)
            gaps.setdefault(category[item], []).append(days.days)
    short, long = gaps["Pets > Cats > Cat Food"], gaps["Food > Coffee and Tea > Tea"]
    assert 7 <= np.median(short) <= 18 < np.median(long) <= 40


def test_season_moves_categories_and_prices(clean: Shop) -> None:
    days = clean.column("interactions", c.EVENT_TIMESTAMP).astype("U10").astype("M8[D]")
    day = (days - np.datetime64(clean.files.first_day)).astype(int)
    category = dict(
        zip(clean.column("items", c.ITEM_ID), clean.column("items", c.CATEGORY), strict=True)
    )
    kinds = np.array([category[item] for item in clean.column("interactions", c.ITEM_ID)])

    def mix(low: int, high: int) -> NDArray[np.float64]:
        rows = (day >= low) & (day < high)
        return np.array([np.mean(kinds[rows] == name) for name in sorted(set(category.values()))])

    quiet = np.abs(mix(30, 50) - mix(50, 70)).sum() / 2
    moved = np.abs(mix(55, 75) - mix(90, 110)).sum() / 2
    assert moved > max(0.2, 1.5 * quiet)
    price = clean.column("interactions", c.PRICE)
    some = price != ""
    median = [
        np.median(price[some & rows].astype(float)) for rows in (day < SEASON, day > SEASON + 6)
    ]
    assert median[1] > 1.15 * median[0]


def test_new_items_stock_outs_and_prices(shop: Shop, clean: Shop) -> None:
    items, valid = shop.column("items", c.ITEM_ID), shop.column("items", c.VALID_FROM)
    first = dict(zip(items[::-1], valid[::-1], strict=True))
    start = FIRST_DAY.strftime("%Y-%m-%dT")
    new = {item for item, time in first.items() if not time.startswith(start)}
    assert 0.1 < len(new) / len(first) < 0.3
    available = shop.column("items", c.AVAILABLE)
    out, back = set(items[available == "false"]), items[available == "true"]
    assert len(out) > 50
    assert len(out & set(back)) > 0.9 * len(out)
    prices = np.unique(np.stack([items, shop.column("items", c.PRICE)]), axis=1)[0]
    assert np.sum(np.unique(prices, return_counts=True)[1] > 1) > 0.1 * len(first)
    # Nobody looks at an item before it is released.
    event_items, times = (clean.column("interactions", n) for n in (c.ITEM_ID, c.EVENT_TIMESTAMP))
    assert all(first[item] <= time for item, time in zip(event_items, times, strict=True))
    assert new & set(event_items)


def test_chinese_and_english_texts(shop: Shop) -> None:
    for table, column in (
        ("items", c.TITLE),
        ("items", c.DESCRIPTION),
        ("reviews", c.TEXT),
        ("searches", c.QUERY),
    ):
        chinese = pc.match_substring_regex(shop.tables[table][column], r"\p{Han}")
        assert 0.1 < pc.mean(pc.cast(chinese, pa.float64())).as_py() < 0.8, (table, column)
    assert pc.all(pc.match_substring(shop.tables["items"][c.TAGS], "|")).as_py()
    assert pc.all(pc.match_substring(shop.tables["items"][c.CATEGORY], " > ")).as_py()


def test_dirt_is_of_every_kind_and_of_the_asked_share(shop: Shop) -> None:
    table = shop.tables["interactions"]
    events = shop.column("interactions", c.EVENT_ID)
    item, price = shop.column("interactions", c.ITEM_ID), shop.column("interactions", c.PRICE)
    time, kind = (shop.column("interactions", n) for n in (c.EVENT_TIMESTAMP, c.EVENT_TYPE))
    quantity, rating = (shop.column("interactions", n) for n in (c.QUANTITY, c.RATING))
    broken = {
        "unknown item": (item != "") & ~np.isin(item, shop.column("items", c.ITEM_ID)),
        "no item": item == "",
        "price": np.char.startswith(price, "-"),
        "quantity": np.char.startswith(quantity, "-"),
        "time": time == "not-a-date",
        "future": np.char.startswith(time, "2099"),
        "type": ~np.isin(kind, list(EVENT_CODES)),
        "rating": rating == "99",
    }
    assert all(rows.any() for rows in broken.values()), {k: v.sum() for k, v in broken.items()}
    share = np.any(list(broken.values()), axis=0).mean()
    assert share == pytest.approx(0.005, rel=0.05)
    names, counts = np.unique(events, return_counts=True)
    assert (counts > 1).sum() == pytest.approx(0.0015 * len(events), rel=0.1)
    twice = table.filter(pc.is_in(table[c.EVENT_ID], pa.array(names[counts > 1])))
    assert len(twice.group_by(twice.column_names).aggregate([])) == (counts > 1).sum()


def test_no_dirt_when_none_is_asked(tmp_path: Path) -> None:
    generate_shop(tmp_path / "out", tmp_path / "truth", events=2_000, seed=4, dirt=0.0)
    table = _read(tmp_path / "out", "interactions")
    assert pc.count_distinct(table[c.EVENT_ID]).as_py() == len(table)
    assert pc.all(pc.is_in(table[c.EVENT_TYPE], pa.array(list(EVENT_CODES)))).as_py()
    assert table[c.ITEM_ID].null_count == 0


def test_truth_predicts_choices_better_than_popularity(clean: Shop) -> None:
    truth, day = clean.files.truth, 77
    users, items = true_ids(truth)
    position = {name: place for place, name in enumerate(items)}
    who = clean.column("interactions", c.USER_ID)
    times = clean.column("interactions", c.EVENT_TIMESTAMP).astype("U10").astype("M8[D]")
    days = (times - np.datetime64(clean.files.first_day)).astype(int)
    what = np.array([position[item] for item in clean.column("interactions", c.ITEM_ID)])
    looked = np.isin(clean.column("interactions", c.EVENT_TYPE), ("view", "search_click"))
    rows = looked & (who != "") & (days >= day) & (days < day + 3)
    chosen, shoppers = what[rows], np.searchsorted(users, who[rows])
    assert (users[shoppers] == who[rows]).all()
    scores = true_scores(truth, shoppers, day)
    assert scores.shape == (rows.sum(), len(items))
    np.testing.assert_allclose(scores.sum(axis=1), 1.0)
    popular = np.bincount(what[looked & (days < day)], minlength=len(items)).astype(float)

    def hits(table: NDArray[np.float64]) -> float:
        own = table[np.arange(len(chosen)), chosen]
        return float(np.mean((table > own[:, None]).sum(axis=1) < 30))

    best, base = hits(scores), hits(np.broadcast_to(popular, scores.shape))
    assert best > 1.5 * base > 0


def test_truth_knows_what_cannot_be_had_and_that_tastes_move(shop: Shop) -> None:
    truth = shop.files.truth
    world = World.load(truth)
    scores = true_scores(truth, np.arange(5), 40)
    assert ((scores > 0) == world.available[40]).all()
    first, last = (np.load(truth / f"taste-{week:02d}.npy").astype(float) for week in (0, 17))
    alike = (first * last).sum(axis=1)
    assert 0.5 < alike.mean() < 0.97
    assert alike.min() < 0.5
    with pytest.raises(NotFoundError, match="days 0 to 119"):
        true_scores(truth, np.arange(2), 120)
    with pytest.raises(NotFoundError, match="truth folder"):
        true_ids(shop.files.out)


def test_bad_arguments_are_refused(tmp_path: Path, shop: Shop) -> None:
    out, truth = tmp_path / "out", tmp_path / "truth"
    with pytest.raises(BadInputError, match="overlaps"):
        generate_shop(out, out / "truth", events=1_000, seed=1)
    with pytest.raises(BadInputError, match="events >= 100"):
        generate_shop(out, truth, events=3, seed=1)
    with pytest.raises(BadInputError, match="dirt"):
        generate_shop(out, truth, events=1_000, seed=1, dirt=2.0)
    with pytest.raises(BadInputError, match="midnight"):
        generate_shop(out, truth, events=1_000, seed=1, start=datetime(2025, 1, 1, 7, tzinfo=UTC))
    with pytest.raises(BadInputError, match="another shop"):
        generate_shop(shop.files.out, truth, events=1_000, seed=1)
    assert not out.exists()
    assert not truth.exists()
