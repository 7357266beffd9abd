"""What runs when: the flows as deployments, their schedules and limits, and the automation."""

import sys
import time
from typing import Any

from contracts.errors import UnavailableError
from contracts.settings import Settings, load_settings
from flows.environment import api_url, server_is_up
from flows.webhook import TAG, register_webhook, webhook_url

WAIT_SECONDS = 120


def make_deployments(settings: Settings, *, scheduled: bool) -> list[Any]:
    """Return all deployments; without `scheduled` they wait to be called."""
    from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
    from prefect.events import DeploymentEventTrigger

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
            cron=cron if scheduled else None,
            concurrency_limit=one_at_a_time,
            triggers=[retrain] if flow is pipeline.train else None,
            description=flow.description,
            tags=[TAG],
        )
        for flow, cron in crons.items()
    ]


def serve_deployments(*, scheduled: bool) -> None:
    """Wait for the Prefect server, register the deployments, and run what is due, until ended."""
    settings = load_settings()
    deadline = time.monotonic() + WAIT_SECONDS
    while not server_is_up(settings):
        if time.monotonic() > deadline:
            raise UnavailableError(f"no Prefect server at {api_url(settings)}; is it starting?")
        time.sleep(0.3)
    from prefect import serve

    register_webhook(webhook_url(settings))
    # Schedules outlive a restart; pausing them would wait for a server that ends at the same time.
    serve(
        *make_deployments(settings, scheduled=scheduled),
        pause_on_shutdown=False,
        print_starting_message=False,
    )


if __name__ == "__main__":
    serve_deployments(scheduled="--unscheduled" not in sys.argv[1:])
