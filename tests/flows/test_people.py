"""Erase: nothing of the person is left anywhere, all others are, and nothing comes back."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from contracts import columns as c
from contracts.errors import NotFoundError, RefusedError, SettingsError, VersionErased
from contracts.pseudonyms import Pseudonymiser
from flows.steps import data, features, people
from services.journal import Journal
from tests.flows.decoding import formats_below, found_in
from tests.flows.person_shop import (
    ANN,
    BOB,
    KEY,
    NOW,
    PEOPLE,
    SHARED,
    VISITS,
    Home,
    make_home,
    needles,
    person,
    visit,
    write_journal,
)

NEW_KEY = "another key for tests; of 38 letters"
TOKEN = PEOPLE.token(person(ANN))


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMALGAM_ID_KEY", KEY)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Home:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AMALGAM_ID_KEY", KEY)
        return make_home(tmp_path_factory.mktemp("shop"))


@pytest.fixture
def home(template: Home, tmp_path: Path) -> Home:
    shutil.copytree(template.path, tmp_path / "var")
    settings = template.settings.model_copy(update={"home": tmp_path / "var"})
    return Home(settings, template.landed)


def theirs(home: Home) -> dict[str, int]:
    return {name: len(rows) for name, rows in home.others().items()}


def test_nothing_is_left_and_nothing_comes_back(home: Home) -> None:
    gone = needles(home)
    before = home.others()
    there = {needle for needle, _ in found_in(home.path, gone)}
    assert {ANN, person(ANN), visit(VISITS[0]), visit(VISITS[2]), VISITS[0]} <= there
    assert {"parquet", "gzip", "sqlite", ".json", ".html", ".csv"} <= formats_below(home.path)

    outcome = people.erase(home.settings, TOKEN, NOW)
    assert outcome["rows"]["interactions"] == 7 and outcome["rows"]["quarantine"] == 4
    assert outcome["sessions"] == 3 and outcome["landed_files"] == 5
    assert found_in(home.path, gone) == []

    names = {person(ANN)} | {visit(raw) for raw in VISITS}
    left = {
        name: [
            row
            for row in rows
            if row[c.USER_ID] != person(ANN)
            and (row[c.USER_ID] or row.get(c.SESSION_ID) not in names)
        ]
        for name, rows in before.items()
    }
    assert home.others() == left
    assert theirs(home) == {
        "interactions": 5,
        "users": 1,
        "reviews": 1,
        "searches": 1,
        "alias": 3,
        "prediction_log": 1,
    }
    kept = home.lake().read("quarantine")
    assert sorted(kept["line"].to_pylist()) == [14, 16]

    versions = home.lake().versions()
    home.land()
    write_journal(home.settings)
    data.ingest_files(home.settings, None, NOW)
    assert home.others() == left and home.lake().versions() == versions
    # Exported anew, the files have other bytes, and the rows are told one by one.
    home.land(["c-events.csv", "b-users.csv"])
    for name, more in (("c-events.csv", b"x,,,,,,,\n"), ("b-users.csv", b"zed,2024-01-01,FR\n")):
        (home.settings.landing / f"again-{name}").write_bytes(home.landed[name] + more)
    data.ingest_files(home.settings, None, NOW)
    ledger = home.lake().read("files")
    left_out = dict(zip(ledger["file"].to_pylist(), ledger["rows_erased"].to_pylist(), strict=True))
    assert (left_out["again-c-events.csv"], left_out["again-b-users.csv"]) == (9, 1)
    shutil.rmtree(home.settings.landing)
    assert found_in(home.path, gone) == []
    assert {name: len(rows) for name, rows in home.others().items()} == theirs(home)


def test_a_request_for_an_erased_person_is_one_of_a_stranger(home: Home) -> None:
    from contracts.state import EMPTY_STATE
    from feature_repo.lookup import FeatureLookup
    from services.shoppers import Logins, Shoppers

    logins = Logins(home.settings.features / "logins.db")
    shoppers = Shoppers(FeatureLookup(home.settings.features), logins, None)
    assert shoppers.state(person(ANN), None) != EMPTY_STATE
    bob = shoppers.state(person(BOB), None)
    people.erase(home.settings, TOKEN, NOW)  # while a worker has both files open
    for user, session in ((ANN, None), (None, VISITS[2]), (None, VISITS[0]), (ANN, VISITS[1])):
        asked = person(user) if user else None
        assert shoppers.state(asked, visit(session) if session else None) == EMPTY_STATE
    assert str(shoppers.state(person(BOB), None)) == str(bob)
    shoppers.close()


def test_older_versions_are_refused_by_name(home: Home) -> None:
    lake = home.lake()
    old = lake.versions()
    people.erase(home.settings, TOKEN, NOW)
    for table in ("interactions", "reviews", "quarantine"):
        with pytest.raises(VersionErased, match="an erase at 2024-06-01.*versions from"):
            lake.read(table, version=old[table])
        assert len(lake.read(table, version=lake.version(table))) == len(lake.read(table))
    assert len(lake.read("items", version=old["items"])) == 2
    assert VersionErased.exit_code == 4


class Killed(BaseException):
    """Stands for a kill: no handler of the program's own takes it."""


def test_killed_at_any_step_it_completes_when_run_again(home: Home, tmp_path: Path) -> None:
    steps: list[str] = []
    whole = tmp_path / "whole"
    shutil.copytree(home.path, whole)
    gone = needles(home)
    settings = home.settings.model_copy(update={"home": whole})
    people.erase(settings, TOKEN, NOW, steps.append)
    expected = Home(settings, home.landed).others()
    assert len(steps) == len(set(steps)) > 15
    for number, step in enumerate(steps):
        path = tmp_path / str(number)
        shutil.copytree(home.path, path)
        settings = home.settings.model_copy(update={"home": path})
        with pytest.raises(Killed):
            people.erase(settings, TOKEN, NOW, _dies_at(step))
        people.erase(settings, TOKEN, NOW)
        assert found_in(path, gone) == [], step
        assert Home(settings, home.landed).others() == expected, step
        shutil.rmtree(path)


def _dies_at(step: str) -> Callable[[str], None]:
    def reached(name: str) -> None:
        if name == step:
            raise Killed(step)

    return reached


LATE = {
    c.EVENT_ID: "event-late-given-0001",
    c.USER_ID: person(ANN),
    c.SESSION_ID: visit("visit-ann-late"),
    c.ITEM_ID: "i2",
    c.EVENT_TYPE: "view",
    c.EVENT_TIMESTAMP: int(NOW.timestamp() * 1e6) - 1_000_000,
}


def test_a_segment_that_a_worker_still_writes_is_waited_for(home: Home) -> None:
    journal = Journal(home.settings.journal, "events", boot="alive", rows=100)
    journal.append([LATE])
    closing = threading.Timer(1.0, journal.close)
    closing.start()
    began = time.monotonic()
    people.erase(home.settings, TOKEN, NOW)
    assert time.monotonic() - began > 0.9
    closing.join()
    assert found_in(home.path, [person(ANN), "event-late-given-0001"]) == []


def test_a_segment_that_closes_while_others_are_taken_in_is_not_missed(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ingest listed the segments while it was open, so that ingest did not read it."""
    journal = Journal(home.settings.journal, "events", boot="alive", rows=100)
    journal.append([LATE])

    def then_close(*arguments: Any, **options: Any) -> Any:
        outcome = data.ingest_files(*arguments, **options)
        taken.append(outcome)
        if len(taken) == 2:  # the first of those that drain the journal
            journal.close()
        return outcome

    taken: list[Any] = []
    monkeypatch.setattr(people, "ingest_files", then_close)
    people.erase(home.settings, TOKEN, NOW)
    assert found_in(home.path, [person(ANN), "event-late-given-0001"]) == []


def test_who_comes_back_is_a_customer_again(home: Home) -> None:
    people.erase(home.settings, TOKEN, NOW)
    text = f"user_id,session_id,item_id,event_type,event_timestamp\n{ANN},new,i1,view,{{}}\n"
    for name, day in (("old", "2024-05-30"), ("new", "2024-06-02")):
        (home.settings.landing / f"{name}.csv").write_text(text.format(day))
    data.ingest_files(home.settings, None, NOW + timedelta(days=3))
    rows = home.lake().read("interactions").to_pylist()
    assert [row[c.EVENT_TIMESTAMP].day for row in rows if row[c.USER_ID] == person(ANN)] == [2]


def test_erase_says_what_it_cannot_do(home: Home) -> None:
    with pytest.raises(NotFoundError, match="nothing is kept of this person"):
        people.erase(home.settings, PEOPLE.token(person("nobody")), NOW)
    page = home.settings.reports / "mine.html"
    page.write_text(f"<p>{person(ANN)}</p>")
    with pytest.raises(RefusedError, match="mine.html"):
        people.erase(home.settings, TOKEN, NOW)
    page.unlink()
    people.erase(home.settings, TOKEN, NOW)
    assert person(ANN) not in str(home.others()) and visit(SHARED) in str(home.others())


def test_a_build_that_had_begun_is_cleaned_up_behind(home: Home, tmp_path: Path) -> None:
    shutil.copytree(home.settings.features, tmp_path / "before")
    people.erase(home.settings, TOKEN, NOW)
    assert people.forget_late(home.settings, NOW + timedelta(seconds=1)) == 0
    shutil.rmtree(home.settings.features)
    shutil.copytree(tmp_path / "before", home.settings.features)  # as a late build leaves it
    assert people.forget_late(home.settings, NOW - timedelta(minutes=1)) > 0
    assert found_in(home.path, [person(ANN), visit(VISITS[2])]) == []


def test_a_new_key_reaches_everything(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    from contracts.state import EMPTY_STATE
    from feature_repo.lookup import FeatureLookup
    from services.shoppers import Logins

    old = [person(ANN), person(BOB), *map(visit, VISITS), visit("visit-bob"), visit("app-bob")]
    write_journal(home.settings)  # keyed by the older key, and not taken in yet
    monkeypatch.setenv("AMALGAM_ID_KEY", f"{KEY},{NEW_KEY}")
    with pytest.raises(SettingsError, match="rotate-key"):
        data.ingest_files(home.settings, None, NOW)
    people.rotate_key(home.settings, NOW)
    assert found_in(home.path, old) == []
    features.build_features(home.settings, NOW)
    features.materialize_online(home.settings, NOW)
    new = Pseudonymiser([KEY.encode(), NEW_KEY.encode()])
    states = FeatureLookup(home.settings.features)
    assert states.online_user(new.one(ANN, "user")) != EMPTY_STATE
    logins = Logins(home.settings.features / "logins.db")
    assert logins.user_of(new.one(VISITS[2], "session")) == new.one(ANN, "user")
    logins.close()
    before = {name: len(rows) for name, rows in home.others().items()}
    home.land()
    data.ingest_files(home.settings, None, NOW)
    assert {name: len(rows) for name, rows in home.others().items()} == before
    # The person who is erased now is found under the new pseudonym.
    people.erase(home.settings, new.token(new.one(ANN, "user")), NOW)
    assert found_in(home.path, [new.one(ANN, "user"), ANN]) == []


def test_quarantine_is_offered_again_through_the_real_gate(home: Home) -> None:
    before = home.lake().read("quarantine")
    found = people.retry_quarantine(home.settings, None, NOW)
    assert found["offered"] == found["refused"] > 0 and found["kept"] == 2
    after = home.lake().read("quarantine")
    assert sorted(after[c.QUARANTINE_ID].to_pylist()) == sorted(before[c.QUARANTINE_ID].to_pylist())
    assert not list(home.settings.landing.glob(".retry-*"))


def test_the_quarantine_command_lists_by_rule(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from flows.cli import app

    monkeypatch.setenv("AMALGAM_HOME", str(home.path))
    told = CliRunner().invoke(app, ["quarantine"]).stdout
    assert "2  interactions: line has the table's number of fields" in told
    assert "c-events.csv:11" in told and person(ANN) in told and ANN not in told
    rows = json.loads(CliRunner().invoke(app, ["quarantine", "--json"]).stdout)
    assert {row["table"] for row in rows} == {"interactions"}
    found = CliRunner().invoke(app, ["quarantine", "--rule", "timestamp", "--limit", "1", "--json"])
    assert [row["line"] for row in json.loads(found.stdout)] == [11]


@pytest.mark.slow
def test_the_command_leaves_no_trace_in_prefect_either(home: Home, template: Home) -> None:
    gone = needles(home)
    environment = os.environ | {
        "AMALGAM_HOME": str(home.path),
        "AMALGAM_ID_KEY": KEY,
        "AMALGAM_CONFIG": str(template.path.parent / "settings.toml"),
    }
    command = [sys.executable, "-m", "flows.cli", "erase", ANN]
    told = subprocess.run(
        [*command, "--token"], env=environment, capture_output=True, text=True, check=True
    )
    assert told.stdout.strip() == TOKEN
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "7 of interactions" in done.stdout and ANN not in done.stdout
    assert (home.path / "prefect" / "prefect.db").is_file()
    assert found_in(home.path, gone) == []
    assert found_in(home.path / "prefect", [TOKEN])  # what the flow was told of the person
