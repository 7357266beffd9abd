"""What runs when: the flows as deployments, their schedules and limits, and the automation."""

import sys
import time
from typing import Any

from contracts.errors import UnavailableError
from contracts.settings import Settings, load_settings
from flows.environment import api_url, server_answers
from flows.webhook import TAG, register_webhook, webhook_url

WAIT_SECONDS = 120
OURS = "settings"
"""Slug of the schedule that comes from the settings; what people add has another, or none."""


def make_deployments(settings: Settings, *, scheduled: bool) -> list[Any]:
    """Return all deployments; without `scheduled` they wait to be called."""
    from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
    from prefect.events import DeploymentEventTrigger
    from prefect.schedules import Cron

    from flows import alerts, pipeline

    operations = settings.operations
    crons: dict[Any, str | None] = {
        pipeline.ingest: operations.ingest_cron,
        pipeline.materialize: operations.materialize_cron,
        pipeline.train: operations.train_cron,
        pipeline.monitor: operations.monitor_cron,
        pipeline.upkeep: operations.upkeep_cron,
        pipeline.recommend_all: None,
        pipeline.erase: None,
        pipeline.promote: None,
        pipeline.rollback: None,
        pipeline.resume: None,
        pipeline.judge_experiment: operations.experiment_cron,
        pipeline.start_experiment: None,
        pipeline.end_experiment: None,
    }
    retrain = DeploymentEventTrigger(
        name="Drift starts a training",
        expect={alerts.DRIFT},
        parameters={"now": "{{ event.payload.now }}", "reason": "{{ event.payload.reason }}"},
    )
    one_at_a_time = ConcurrencyLimitConfig(
        limit=1, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE
    )
    return [
        flow.to_deployment(
            name=flow.name,
            schedule=Cron(cron, slug=OURS) if scheduled and cron else None,
            concurrency_limit=one_at_a_time,
            triggers=[retrain] if flow is pipeline.train else None,
            description=flow.description,
            tags=[TAG],
        )
        for flow, cron in crons.items()
    ]


def keep_added(deployments: list[Any]) -> list[Any]:
    """Give deployments the schedules that people added in the UI; return them.

    Registered without them, they would lose them. Our own stays paused where somebody paused it,
    and goes where it is not wanted any more.
    """
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    with get_client(sync_client=True) as client:
        for made in deployments:
            try:
                known = client.read_deployment_by_name(f"{made.flow_name}/{made.name}")
            except ObjectNotFound:
                continue
            crons = {plan.schedule.cron for plan in made.schedules or ()}
            there = [plan for plan in known.schedules if _is_ours(plan, crons)]
            for plan in there if not crons else ():
                client.delete_deployment_schedule(known.id, plan.id)
            active = not there or there[0].active
            ours = [plan.model_copy(update={"active": active}) for plan in made.schedules or ()]
            made.schedules = ours + [_again(plan) for plan in known.schedules if plan not in there]
    return deployments


def _is_ours(plan: Any, crons: set[str]) -> bool:
    return plan.slug == OURS or (not plan.slug and getattr(plan.schedule, "cron", None) in crons)


def _again(plan: Any) -> Any:
    """Return what makes a schedule that the server has once more."""
    from prefect.client.schemas.actions import DeploymentScheduleCreate

    return DeploymentScheduleCreate(
        schedule=plan.schedule, active=plan.active, parameters=plan.parameters, slug=plan.slug
    )


def serve_deployments(*, scheduled: bool) -> None:
    """Wait for the Prefect server, register the deployments, and run what is due, until ended."""
    settings = load_settings()
    deadline = time.monotonic() + WAIT_SECONDS
    while not server_answers(settings):
        if time.monotonic() > deadline:
            raise UnavailableError(f"no Prefect server at {api_url(settings)}; is it starting?")
        time.sleep(0.3)
    from prefect import serve

    from flows.runs import end_orphans

    register_webhook(webhook_url(settings))
    end_orphans()
    # Schedules outlive a restart; pausing them would wait for a server that ends at the same time.
    serve(
        *keep_added(make_deployments(settings, scheduled=scheduled)),
        pause_on_shutdown=False,
        print_starting_message=False,
    )


if __name__ == "__main__":
    serve_deployments(scheduled="--unscheduled" not in sys.argv[1:])
