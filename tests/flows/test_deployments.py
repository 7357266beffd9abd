"""What the Prefect UI offers: each deployment's form, limits and schedules."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect import Flow, Task
from prefect.client.schemas.objects import ConcurrencyLimitStrategy
from prefect.states import Failed

from contracts.errors import SettingsError, UnavailableError
from contracts.settings import OperationsSettings, Settings, load_settings
from flows import alerts, pipeline
from flows.deployments import make_deployments
from flows.steps.sources import has_databases, reach_databases
from flows.webhook import TAG

DECLARED = """
[sources.old]
columns.user_id = "u"
columns.item_id = "i"
columns.event_timestamp = "t"
constants.event_type = "view"
[sources.old.sql]
url_env = "SHOP_DB"
high_water = "t"
start = "2024-01-01"
query = "SELECT u, i, t FROM log WHERE t >= :high_water"
"""


@pytest.fixture(scope="module")
def deployments() -> dict[str, Any]:
    settings = Settings(home=Path("never-made"), demo=True)
    return {made.name: made for made in make_deployments(settings, scheduled=True)}


def test_every_flow_is_deployed_under_its_name(deployments: dict[str, Any]) -> None:
    flows = {flow.name for flow in vars(pipeline).values() if isinstance(flow, Flow)}
    assert set(deployments) == flows
    design = {"ingest", "materialize", "train", "monitor", "promote", "rollback", "erase"}
    assert design | {"recommend-all"} <= flows


def test_every_parameter_of_every_form_has_a_type_and_words(deployments: dict[str, Any]) -> None:
    for name, made in deployments.items():
        schema = made._parameter_openapi_schema.model_dump()
        for parameter, told in schema["properties"].items():
            where = f"{name}.{parameter}"
            assert told.get("description", "").strip(), where
            assert {"type", "anyOf", "enum", "$ref"} & set(told), where
        assert made.enforce_parameter_schema, name
        assert "now" in schema["properties"], name


def test_only_what_cannot_be_guessed_is_required(deployments: dict[str, Any]) -> None:
    required = {
        name: made._parameter_openapi_schema.model_dump().get("required", [])
        for name, made in deployments.items()
    }
    assert {name: found for name, found in required.items() if found} == {
        "promote": ["version"],
        "start-experiment": ["version"],
        "erase": ["token"],
        "recommend-all": ["out"],
    }


def test_each_has_words_a_tag_a_timeout_and_one_run_at_a_time(deployments: dict[str, Any]) -> None:
    for flow in [flow for flow in vars(pipeline).values() if isinstance(flow, Flow)]:
        assert flow.timeout_seconds and flow.timeout_seconds <= timedelta(days=2).total_seconds()
        assert not flow.retries, "a second run would ingest, move or tell twice"
        made = deployments[flow.name]
        assert made.description and TAG in made.tags
        # Each deployment has a limit of its own: an ingest runs beside a training.
        assert made.concurrency_limit == 1
        assert made.concurrency_options.collision_strategy == ConcurrencyLimitStrategy.ENQUEUE


def test_schedules_are_those_of_the_settings_or_none(tmp_path: Path) -> None:
    operations = OperationsSettings(ingest_cron="7 * * * *")
    settings = Settings(home=tmp_path, operations=operations)
    made = {found.name: found for found in make_deployments(settings, scheduled=True)}
    assert [plan.schedule.cron for plan in made["ingest"].schedules] == ["7 * * * *"]
    assert not made["rollback"].schedules
    idle = make_deployments(settings, scheduled=False)
    assert not any(found.schedules for found in idle)


def test_drift_and_nothing_else_starts_a_training(deployments: dict[str, Any]) -> None:
    triggered = {name: made.triggers for name, made in deployments.items() if made.triggers}
    assert list(triggered) == ["train"]
    (trigger,) = triggered["train"]
    assert trigger.expect == {alerts.DRIFT}
    assert set(trigger.parameters) == {"now", "reason"}


def test_only_what_meets_the_world_is_tried_again() -> None:
    tasks = {name: found for name, found in vars(pipeline).items() if isinstance(found, Task)}
    assert {name for name, found in tasks.items() if found.retries} == {"reach_databases"}
    run: Any = None
    judge = pipeline.unavailable
    assert judge(pipeline.reach_databases, run, Failed(data=UnavailableError("away")))
    assert not judge(pipeline.reach_databases, run, Failed(data=SettingsError("no URL")))


def test_databases_are_reached_or_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "settings.toml"
    config.write_text(DECLARED)
    settings = load_settings(config, home=tmp_path / "home", demo=True)
    assert has_databases(settings)
    monkeypatch.setenv("SHOP_DB", "sqlite:////no/such/folder/shop.db")
    with pytest.raises(UnavailableError, match="source 'old': its database cannot be reached"):
        reach_databases(settings)
    monkeypatch.setenv("SHOP_DB", f"sqlite:///{tmp_path}/shop.db")
    assert reach_databases(settings) == 1
    assert not has_databases(load_settings(home=tmp_path / "home", demo=True))
