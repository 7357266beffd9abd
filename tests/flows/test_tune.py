"""`amalgam tune`: a study that is resumed, its trials, its winner, and the settings it lands in."""

import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
import pytest

from contracts.errors import BadInputError, NotFoundError, RefusedError, UnavailableError
from contracts.settings import Settings, load_settings
from flows.settings_edit import with_section, write_section
from flows.steps import tune as steps
from flows.steps.training import prepare_models, recipe
from flows.steps.trials import TuneRequest, finished, run_trials
from flows.steps.winner import keep_winner, tuning_folder, winner_section
from models.recipe import TrainingInputs
from models.registry import DEFAULT_RETRIEVERS
from models.tuning import Report
from tests.models.ranking_shop import NOW, make_shop

WRITTEN = datetime(2026, 11, 21, tzinfo=UTC)
SETTINGS = """
[training]
rank_days = 20
test_days = 12
history_length = 20
candidates_per_retriever = 30
max_candidates = 60
max_trees = 5
fusion = "blend"
num_threads = 1
ablation_queries = 0

[retrievers.popularity]
[retrievers.item_knn]
# mine: do not touch
shrink = 12.0  # found by hand
"""


class Hill:
    """A value that is largest at 40 days; told in parts, so that a trial can end early."""

    present = {"half_life_days": 28.0}

    def __init__(self, dies_at: int | None = None, fails_at: frozenset[int] = frozenset()) -> None:
        self.dies_at, self.fails_at = dies_at, fails_at
        self.seen: list[float] = []

    def __call__(self, params: Mapping[str, Any], report: Report) -> float:
        if len(self.seen) == self.dies_at:
            raise KeyboardInterrupt
        self.seen.append(params["half_life_days"])
        if len(self.seen) - 1 in self.fails_at:
            raise BadInputError("nothing to learn")
        value = 1 / (1 + abs(params["half_life_days"] - 40))
        for part in range(3):
            report(part, value * (part + 1) / 3)
        return value


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    config = tmp_path / "shop.toml"
    config.write_text(SETTINGS)
    return load_settings(config, home=tmp_path / "home", demo=True)


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[optuna.storages.RDBStorage]:
    kept = optuna.storages.RDBStorage(f"sqlite:///{tmp_path}/study.db")
    yield kept
    kept.remove_session()
    kept.engine.dispose()


@pytest.fixture(scope="module")
def inputs() -> TrainingInputs:
    return make_shop(n_users=90).inputs


def request(trials: int, **more: Any) -> TuneRequest:
    return TuneRequest("popularity", trials, now=NOW, **more)


def opened(
    settings: Settings, storage: optuna.storages.BaseStorage, asked: TuneRequest
) -> optuna.Study:
    tuning_folder(settings).mkdir(parents=True, exist_ok=True)
    return steps.open_study(settings, asked, storage)


def test_the_first_trial_is_the_present_and_bad_ones_end_early(
    settings: Settings, storage: optuna.storages.BaseStorage
) -> None:
    asked, hill = request(16), Hill()
    study = opened(settings, storage, asked)
    run_trials(study, hill, asked)
    assert hill.seen[0] == 28.0 and len(hill.seen) == 16
    states = [trial.state.name for trial in finished(study)]
    assert len(states) == 16 and "PRUNED" in states
    assert study.best_value > 1 / 13
    # Nothing is left to do: a trial more would raise.
    run_trials(study, Hill(dies_at=0), asked)


def test_killed_and_resumed_it_gives_the_trials_that_it_would_have(
    settings: Settings, storage: optuna.storages.BaseStorage
) -> None:
    whole, parts = Hill(), Hill(dies_at=7)
    run_trials(opened(settings, storage, request(12)), whole, request(12))
    # Another recipe is another study.
    other = settings.model_copy(update={"training": {**settings.training, "seed": 8}})
    first = opened(other, storage, request(12))
    with pytest.raises(KeyboardInterrupt):
        run_trials(first, parts, request(12))
    assert [trial.state.name for trial in first.get_trials()].count("RUNNING") == 1
    again = opened(other, storage, request(12))
    assert again.study_name == first.study_name
    assert [trial.state.name for trial in again.get_trials()].count("FAIL") == 1
    rest = Hill()
    run_trials(again, rest, request(12))
    assert parts.seen + rest.seen == whole.seen
    assert len(finished(again)) == 12


def test_killed_in_its_first_trial_it_begins_with_the_present_again(
    settings: Settings, storage: optuna.storages.BaseStorage
) -> None:
    asked, hill = request(3), Hill()
    with pytest.raises(KeyboardInterrupt):
        run_trials(opened(settings, storage, asked), Hill(dies_at=0), asked)
    run_trials(opened(settings, storage, asked), hill, asked)
    assert hill.seen[0] == 28.0 and len(hill.seen) == 3


def test_a_trial_that_fails_is_kept_with_its_reason_and_counts(
    settings: Settings, storage: optuna.storages.BaseStorage
) -> None:
    asked = request(4)
    study = opened(settings, storage, asked)
    run_trials(study, Hill(fails_at=frozenset({0, 2})), asked)
    reasons = [trial.user_attrs.get("reason") for trial in finished(study)]
    assert reasons == ["BadInputError: nothing to learn", None] * 2


def test_out_of_time_no_trial_is_begun(
    settings: Settings, storage: optuna.storages.BaseStorage
) -> None:
    ticks = iter(range(0, 10_000, 40))
    asked, hill = request(20), Hill()
    study = opened(settings, storage, asked)
    run_trials(study, hill, asked, timedelta(seconds=100), clock=lambda: float(next(ticks)))
    assert len(hill.seen) == 2


def test_the_winner_lands_in_a_file_and_the_next_training_uses_it(
    settings: Settings, inputs: TrainingInputs, tmp_path: Path
) -> None:
    reads = []

    def read(
        settings: Settings, now: datetime, as_of: str | None
    ) -> tuple[TrainingInputs, dict[str, int]]:
        reads.append(now)
        return inputs, {}

    asked = TuneRequest("item_knn", 8, seed=3, now=NOW)
    outcome = steps.tune(settings, asked, written=WRITTEN, read=read)
    best = outcome["best"]["value"]
    assert outcome["present"] <= best == max(row["value"] for row in outcome["trials"])
    assert outcome["finished"] == sum(outcome["states"].values()) == 8
    text = Path(outcome["file"]).read_text()
    for said in (
        f"{best:.6f}",
        f"{outcome['present']:.6f}",
        "8 trials",
        "2026-11-21",
        "2024-04-19",
    ):
        assert said in text
    section = tomllib.loads(text)["retrievers"]["item_knn"]
    assert section == outcome["section"]["values"]
    # Run again it reads nothing, and says the same.
    assert steps.tune(settings, asked, written=WRITTEN, read=read) == outcome
    assert reads == [NOW]
    assert {path.suffix for path in Path(outcome["file"]).parent.iterdir()} == {
        ".db",
        ".lock",
        ".toml",
    }

    config = tmp_path / "shop.toml"
    keep_winner(outcome, config)
    assert "# mine: do not touch" in config.read_text()
    assert "# found by hand" in config.read_text()
    tuned = load_settings(config, home=settings.home, demo=True)
    assert tuned.training == settings.training
    assert tuned.retrievers == {"popularity": {}, "item_knn": section}
    _, learned = prepare_models(tuned, inputs)
    model: Any = learned.retrievers.models["item_knn"]
    assert model.config.n_neighbours == section["n_neighbours"]
    assert model.config.recency.half_life_days == section["recency"]["half_life_days"]
    # With other settings it is another study, whose first trial is the winner.
    assert steps.study_identity(tuned, asked) != steps.study_identity(settings, asked)


def test_data_that_changed_while_they_were_read_are_not_mixed(
    settings: Settings, inputs: TrainingInputs
) -> None:
    with pytest.raises(UnavailableError, match="the lake changed"):
        steps.tune(
            settings, request(1), written=WRITTEN, read=lambda *asked: (inputs, {"items": 3})
        )


def test_one_process_tunes_a_model_at_a_time(settings: Settings, inputs: TrainingInputs) -> None:
    def read(*asked: Any) -> tuple[TrainingInputs, dict[str, int]]:
        with pytest.raises(UnavailableError, match="is being tuned"):
            steps.tune(settings, request(1), written=WRITTEN)
        return inputs, {}

    assert steps.tune(settings, request(1), written=WRITTEN, read=read)["best"]["present"]


def test_without_any_result_it_is_refused_with_the_reasons(
    settings: Settings, inputs: TrainingInputs
) -> None:
    asked = replace(request(5), minutes=-1.0)
    with pytest.raises(RefusedError, match="there was time for none"):
        steps.tune(settings, asked, written=WRITTEN, read=lambda *more: (inputs, {}))


def test_weights_of_events_land_in_the_recipe(settings: Settings) -> None:
    section = winner_section(settings, "event_weights", {"view": 0.25})
    text = with_section(SETTINGS, section["name"], section["values"])
    weights = tomllib.loads(text)["training"]["event_weights"]
    assert weights == {**recipe(settings).event_weights, "view": 0.25}
    assert weights["dislike"] < 0
    section = winner_section(settings, "ranker", {"max_depth": 4})
    assert tomllib.loads(with_section(text, **section))["training"]["max_depth"] == 4


def test_settings_without_retrievers_keep_the_default_ones(tmp_path: Path) -> None:
    config = tmp_path / "shop.toml"
    config.write_text("[shop]\ncurrency = 'GBP'\n")
    config.chmod(0o640)
    outcome = {"section": {"name": ["retrievers", "ease"], "values": {"reg": 3.5}}}
    keep_winner(outcome, config)
    found = load_settings(config, home=tmp_path, demo=True)
    assert found.retrievers == {name: {} for name in DEFAULT_RETRIEVERS} | {"ease": {"reg": 3.5}}
    assert found.shop.currency == "GBP"
    assert config.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    "text",
    [
        "[retrievers.ease]\nreg = [\n1]\n",
        "retrievers.ease.reg = 1.0\n",
        "[retrievers]\nease = { reg = 1.0 }\n",
        "[retrievers.ease.recency]\nbasket_decay = 1.0\n",
    ],
)
def test_a_file_that_cannot_be_edited_safely_is_left_alone(tmp_path: Path, text: str) -> None:
    config = tmp_path / "shop.toml"
    config.write_text(text)
    values = {"reg": 3.5, "recency": {"basket_decay": 0.5}}
    with pytest.raises(BadInputError, match=r"by hand:\n\[retrievers.ease\]\nreg = 3.5"):
        write_section(config, ["retrievers", "ease"], values)
    assert config.read_text() == text
    with pytest.raises(NotFoundError):
        write_section(tmp_path / "none.toml", ["training"], {})


def test_default_toml_takes_a_winner_and_changes_nowhere_else() -> None:
    from flows.settings_files import packaged

    text = packaged("default.toml").read_text()
    values = {"recency": {"basket_decay": 0.5, "half_life_days": 20.0}, "shrink": 3.0}
    changed = with_section(text, ["retrievers", "item_knn"], values)
    pairs = zip(text.splitlines(), changed.splitlines(), strict=True)
    assert sum(old != new for old, new in pairs) == 2


def test_an_unknown_model_is_one_clear_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "tune", "als"],
        capture_output=True,
        text=True,
        env=os.environ | {"AMALGAM_HOME": str(tmp_path)},
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("amalgam: unknown model 'als'; known: ['attributes',")
    assert not list(tmp_path.iterdir())
