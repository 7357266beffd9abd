"""A new key: old rows and new ones meet, nothing is keyed twice, nothing of the old key is left."""

import json
import shutil
from pathlib import Path

import pytest

from contracts import columns as c
from contracts.errors import SettingsError, VersionErased
from contracts.pseudonyms import Pseudonymiser
from lake.intake import IntakeReport, ingest
from lake.quarantine import Sealer
from lake.rekey import older_keys, rekey, under_way
from lake.store import Lake
from lake.tombstones import Grave, Tombstones, bury, graves
from tests.lake.shop import NOW, validate, write

FIRST, SECOND = b"the first key of enough letters", b"the second key of enough letters"
OLD, NEW = Pseudonymiser([FIRST]), Pseudonymiser([FIRST, SECOND])
HEADER = "user_id,session_id,item_id,event_type,event_timestamp,quantity\n"
GONE = OLD.one("Cid", "user")


def bring(home: Path, paths: list[Path], people: Pseudonymiser) -> IntakeReport:
    return ingest(
        paths,
        Lake(home / "lake"),
        validate=validate,
        pseudonymiser=people,
        now=NOW,
        chunk_rows=1000,
        staging=home / "staging",
    )


def line(user: str, session: str, day: int, quantity: object = 1) -> str:
    return f"{user},{session},i1,view,2024-01-{day:02}T10:00:00Z,{quantity}\n"


def fill(home: Path) -> Path:
    """Fill a lake under the first key: repeats, given keys, refused rows, a line uncut, a grave."""
    rows = [line("Ann", "s1", 1)] * 3 + [line("Bob", "s2", day) for day in range(2, 6)]
    rows += [line("", "s1", 1), line("Ann", "s1", 2, -1), line("Bob", "s2", 3, "many"), "Ann,s1\n"]
    path = write(home / "in" / "a.csv", HEADER + "".join(rows))
    reviews = [
        {
            "user_id": "Ann",
            "item_id": "i1",
            "rating": 5,
            "text": "A",
            "event_timestamp": "2024-01-01",
        },
        {
            "review_id": "0" * 32,
            "user_id": "Bob",
            "item_id": "i1",
            "rating": "x",
            "event_timestamp": "2024-01-01",
        },
        {"review_id": "f" * 32, "user_id": "Bob", "item_id": "i1", "event_timestamp": "2024-01-01"},
    ]
    text = "\n".join(map(json.dumps, reviews))
    write(home / "in" / "b.jsonl.gz", text)
    write(home / "in" / "c.csv", "user_id,valid_from\nAnn,2024-01-01\n")
    bury(Lake(home / "lake"), Grave(GONE, frozenset(), NOW), Sealer(OLD))
    report = bring(home, [home / "in"], OLD)
    assert (report.accepted, report.quarantined) == (11, 4)
    return path


def turn(home: Path, **options: object) -> dict[str, int]:
    lake = Lake(home / "lake")
    with lake.lock("intake", 10):
        return rekey(lake, NEW, now=NOW, staging=home / "staging", **options)  # type: ignore[arg-type]


def test_old_files_bring_nothing_and_new_rows_meet_the_old(tmp_path: Path) -> None:
    path = fill(tmp_path)
    lake = Lake(tmp_path / "lake")
    before = {name: len(lake.read(name)) for name in lake.versions()}
    rows = turn(tmp_path)
    assert rows["interactions"] == 8 and rows["quarantine"] == 4 and rows["tombstones"] == 1
    assert {name: len(lake.read(name)) for name in before} == before

    again = bring(tmp_path, [tmp_path / "in"], NEW)
    assert (again.files_known, again.accepted, again.quarantined) == (3, 0, 0)
    # Exported anew, every row meets its own: keys that are hashes were computed again.
    lines = path.read_text().splitlines(keepends=True)
    other = write(tmp_path / "more.csv", "".join(lines[:9]) + line("Ann", "s9", 9))
    more = bring(tmp_path, [other], NEW)
    assert (more.rows_in, more.accepted, more.duplicates) == (9, 1, 8)
    users = lake.read("interactions")[c.USER_ID].to_pylist()
    assert users.count(NEW.one("Ann", "user")) == 4 and users.count(NEW.one("Bob", "user")) == 4
    reviews = write(
        tmp_path / "r.jsonl",
        '{"user_id": "Ann", "item_id": "i1", "rating": 5, '
        '"text": "A", "event_timestamp": "2024-01-01"}\n',
    )
    assert bring(tmp_path, [reviews], NEW).duplicates == 1
    assert "f" * 32 in lake.read("reviews")[c.REVIEW_ID].to_pylist()


def test_nothing_of_the_old_key_is_left(tmp_path: Path) -> None:
    fill(tmp_path)
    lake = Lake(tmp_path / "lake")
    versions = lake.versions()
    turn(tmp_path)
    old = [OLD.one(name, "user") for name in ("Ann", "Bob", "Cid")]
    old += [OLD.one(name, "session") for name in ("s1", "s2")]
    import pyarrow.parquet as pq

    for path in sorted(path for path in (tmp_path / "lake").rglob("*") if path.is_file()):
        text = path.read_bytes()
        if path.suffix == ".parquet":
            text += str(pq.read_table(path).to_pylist()).encode()
        assert not [name for name in old if name.encode() in text], path
    assert not list((tmp_path / "staging").glob("rekey-*"))
    with pytest.raises(VersionErased, match="a new key at"):
        lake.read("interactions", version=versions["interactions"])
    rows = sorted(lake.read("quarantine").to_pylist(), key=lambda row: (row["file"], row["line"]))
    shown = [json.loads(row["row"])["user_id"] if row["row"] else None for row in rows]
    bob = NEW.one("Bob", "user")
    assert shown == [NEW.one("Ann", "user"), bob, None, bob]
    assert json.loads(rows[3]["row"])["review_id"] == "0" * 32
    assert Sealer(NEW).unseal(rows[2]["sealed"]) == b"Ann,s1"
    assert [grave.user for grave in graves(lake, NEW)] == [NEW.one("Cid", "user")]
    assert NEW.one("Cid", "user") in Tombstones.of(lake, NEW).users


class Killed(BaseException):
    """Stands for a kill: no handler of the program's own takes it."""


def test_killed_anywhere_it_goes_on_and_keys_nothing_twice(tmp_path: Path) -> None:
    fill(tmp_path / "given")
    steps: list[str] = []
    shutil.copytree(tmp_path / "given", tmp_path / "whole")
    turn(tmp_path / "whole", reached=steps.append)
    expected = _content(tmp_path / "whole")
    assert len(steps) > 14
    for number, step in enumerate(steps):
        home = tmp_path / str(number)
        shutil.copytree(tmp_path / "given", home)

        def dies(name: str, at: str = step) -> None:
            if name == at:
                raise Killed

        with pytest.raises(Killed):
            turn(home, reached=dies)
        for people in (OLD, NEW):
            with pytest.raises(SettingsError, match="rotate-key"):
                bring(home, [home / "in"], people)
        turn(home)
        assert not under_way(Lake(home / "lake")) and _content(home) == expected
    assert bring(home, [home / "in"], NEW).files_known == 3


def _content(home: Path) -> dict[str, list[object]]:
    lake = Lake(home / "lake")
    names = ("interactions", "users", "reviews", "alias")
    found = {name: sorted(lake.read(name).to_pylist(), key=str) for name in names}
    rows = lake.read("quarantine").to_pylist()
    found["quarantine"] = sorted((row["file"], row["line"], row["row"]) for row in rows)
    return found


def test_keys_are_checked_at_the_door(tmp_path: Path) -> None:
    path = fill(tmp_path)
    lake = Lake(tmp_path / "lake")
    with pytest.raises(SettingsError, match="amalgam rotate-key"):
        bring(tmp_path, [path], NEW)
    stranger = Pseudonymiser([SECOND])
    with pytest.raises(SettingsError, match="set the AMALGAM_ID_KEY it was filled under"):
        bring(tmp_path, [path], stranger)
    with pytest.raises(SettingsError, match="does not begin with"):
        older_keys(lake, stranger)
    assert older_keys(lake, OLD) is None
    held = (tmp_path / "lake" / "keys.json").read_text()
    assert FIRST.decode() not in held and json.loads(held)["fingerprint"] == OLD.fingerprint
    turn(tmp_path)
    with pytest.raises(SettingsError, match="another AMALGAM_ID_KEY"):
        bring(tmp_path, [path], OLD)
    assert turn(tmp_path) == {}


def test_two_keys_at_once(tmp_path: Path) -> None:
    fill(tmp_path)
    three = Pseudonymiser([FIRST, SECOND, b"the third key of enough letters"])
    lake = Lake(tmp_path / "lake")
    with lake.lock("intake", 10):
        rekey(lake, three, now=NOW, staging=tmp_path / "staging")
    assert three.one("Ann", "user") in lake.read("interactions")[c.USER_ID].to_pylist()
