"""States brought up to date day by day are, byte for byte, those of a full rebuild."""

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts import columns as c
from contracts.events import EVENT_TYPES
from contracts.tables import ALIAS, INTERACTIONS
from features import assembly
from features.increment import update_user_states
from features.sources import LakeFiles, from_us
from tests.features.examples import examples
from tests.features.shops import START_US, Click, at, interactions

DAY = 86_400_000_000
DAYS = 4
NOTHING = LakeFiles((), ())


@dataclass(frozen=True)
class Batch:
    """What came on one day."""

    clicks: list[Click]
    logins: list[tuple[str, str, int]]


# Few moments, so that events meet; some are late, some are still to come when they arrive.
moments = st.integers(-6, 3).map(lambda quarter: quarter * DAY // 4)
people = st.sampled_from([
    ("u0", None), ("u1", "s0"), (None, "s0"), (None, "s1"), (None, "s2"), (None, None)
])  # fmt: skip
events = st.tuples(
    people,
    st.sampled_from("abc"),
    st.sampled_from(EVENT_TYPES),
    moments,
    st.one_of(st.none(), st.integers(0, 40).map(lambda quarters: quarters / 4)),
    st.one_of(st.none(), st.integers(1, 3)),
)
logins = st.tuples(
    st.sampled_from(["s0", "s1", "s2"]), st.sampled_from(["u0", "u1", "u2"]), moments
)
days = st.tuples(st.lists(events, max_size=7), st.lists(logins, max_size=2))


@st.composite
def streams(draw) -> list[Batch]:
    batches, known, number = [], set(), 0
    for day in range(DAYS):
        rows, said = draw(days)
        clicks = []
        for (user, session), item, kind, moment, price, quantity in rows:
            # The order of ids is not that of arrival.
            number += 1
            name = f"e{number * 7919 % 1000:03}"
            when = day * DAY + moment
            clicks.append(Click(name, user, session, item, kind, when, price, price, quantity))
        new = []
        for session, user, moment in said:
            # A session may turn out to have logged in before: the key is not in the lake's way.
            if (session, user, moment) not in known:
                known.add((session, user, moment))
                new.append((session, user, day * DAY + moment))
        batches.append(Batch(clicks, new))
    return batches


def written(root: Path, number: int, batch: Batch) -> LakeFiles:
    """Write a day's files, as an append to the lake does."""
    alias = [
        {c.SESSION_ID: session, c.USER_ID: user, c.VALID_FROM: from_us(START_US + when)}
        for session, user, when in batch.logins
    ]
    paths = []
    for spec, rows in ((INTERACTIONS, interactions(batch.clicks)), (ALIAS, alias)):
        path = root / f"{spec.name}-{number}.parquet"
        if rows:
            pq.write_table(pa.Table.from_pylist(rows, schema=spec.schema), path)
        paths.append((str(path),) if rows else ())
    return LakeFiles(interactions=paths[0], items=(), alias=paths[1])


def joined(left: LakeFiles, right: LakeFiles) -> LakeFiles:
    return LakeFiles(left.interactions + right.interactions, (), alias=left.alias + right.alias)


def replay(batches: list[Batch], chunk_events: int) -> int:
    """Build day by day both ways, compare the bytes, and return how many builds were no rebuild."""
    with TemporaryDirectory() as folder:
        root, files, since, saved = Path(folder), NOTHING, None, 0
        for number, batch in enumerate(batches):
            added = written(root, number, batch)
            files, now = joined(files, added), at(number + 0.5)
            options = {"now": now, "chunk_events": chunk_events}
            done = update_user_states(files, added, since=since, out=root / "daily", **options)
            whole = update_user_states(files, None, since=None, out=root / "whole", **options)
            parts = [(root / name / "part-0.parquet") for name in ("daily", "whole")]
            if parts[0].read_bytes() != parts[1].read_bytes():
                assert pq.read_table(parts[0]).to_pylist() == pq.read_table(parts[1]).to_pylist()
                raise AssertionError("equal rows, other bytes")
            assert done.rows == whole.rows and whole.full
            assert done.full == (since is None), done.why
            saved, since = saved + (not done.full), now
        return saved


@pytest.fixture(autouse=True, scope="module")
def short_states():
    """Lists of four events: so small shops have shoppers with more."""
    patch = pytest.MonkeyPatch()
    patch.setattr(assembly, "STATE_EVENTS", 4)
    yield
    patch.undo()


@settings(max_examples=examples(6), deadline=None)
@given(streams(), st.sampled_from([3, 2_000_000]))
def test_daily_builds_equal_the_full_one(batches, chunk_events):
    assert replay(batches, chunk_events) == DAYS - 1


def one(name: str, user: str | None, session: str | None, day: float) -> Click:
    return Click(name, user, session, "a", "view", int(day * DAY), 2.5, None, 3)


@pytest.mark.parametrize(
    ("first", "second", "remade"),
    [
        # Late, but of a moment of its own: it is added.
        (Batch([one("a", "u", None, 0.1)], []), Batch([one("b", "u", None, 0.05)], []), 0),
        # Of the very moment of a listed event: its id decides its place.
        (Batch([one("b", "u", None, 0.1)], []), Batch([one("a", "u", None, 0.1)], []), 1),
        # The session's events become the user's.
        (Batch([one("a", None, "s", 0.1)], []), Batch([], [("s", "u", DAY)]), 0),
        # The log-in was before an event that the session had: that is the user's alone.
        (Batch([one("a", None, "s", 0.4)], []), Batch([], [("s", "u", DAY // 5)]), 1),
        # The first log-in was another one: session, former user, user.
        (
            Batch([one("a", None, "s", 0.1)], [("s", "v", DAY // 4)]),
            Batch([], [("s", "u", DAY // 5)]),
            3,
        ),
        # Known to the lake, in the future at the first build.
        (Batch([one("a", "u", None, 1.2)], [("s", "u", DAY)]), Batch([], []), 0),
    ],
)
def test_only_what_does_not_add_up_is_made_again(tmp_path, first, second, remade):
    files = written(tmp_path, 0, first)
    update_user_states(files, None, since=None, now=at(0.5), out=tmp_path / "daily")
    added = written(tmp_path, 1, second)
    files = joined(files, added)
    done = update_user_states(files, added, since=at(0.5), now=at(1.5), out=tmp_path / "daily")
    update_user_states(files, None, since=None, now=at(1.5), out=tmp_path / "whole")
    parts = [(tmp_path / name / "part-0.parquet").read_bytes() for name in ("daily", "whole")]
    assert parts[0] == parts[1]
    assert not done.full and done.remade == remade


def test_what_cannot_be_added_to_is_built_anew(tmp_path):
    files = written(tmp_path, 0, Batch([one("a", "u", None, 0.1)], []))
    out = tmp_path / "daily"
    tick = timedelta(microseconds=1)

    def build(since, now, added=NOTHING):
        return update_user_states(files, added, since=since, now=now, out=out)

    assert build(None, at(1)).why == "no earlier build"
    assert not build(at(1), at(2)).full
    assert "not those of" in build(at(1), at(2)).why
    assert "not known" in build(at(2), at(3), None).why
    assert "later moment" in build(at(3), at(3) - tick).why
    (out / "part-0.parquet").write_bytes(b"PAR1 torn")
    assert "no readable states" in build(at(3), at(4)).why
    table = pq.read_table(out / "part-0.parquet")
    pq.write_table(table.replace_schema_metadata({}), out / "part-0.parquet")
    assert "older format" in build(at(4), at(5)).why
    assert not build(at(5), at(6)).full
