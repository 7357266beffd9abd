"""Ask the Prefect server for runs of the deployments, and watch them from outside."""

import json
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any
from uuid import UUID

from contracts.errors import AmalgamError, UnavailableError
from contracts.settings import Settings
from flows.steps.outcome import outcome_path


class RunFailedError(AmalgamError):
    """A flow run that was waited for did not complete."""

    code = "run_failed"


def start_run(name: str, parameters: dict[str, Any]) -> UUID:
    """Ask the deployment of flow `name` for a run; return its id at once."""
    from prefect.deployments import run_deployment

    run = run_deployment(f"{name}/{name}", parameters=parameters, timeout=0, as_subflow=False)
    return UUID(str(run.id))  # type: ignore[union-attr]


def automation_run(name: str, *, since: datetime, timeout_seconds: float) -> UUID:
    """Wait for a run of flow `name` that an automation made after `since`; return its id."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import (
        DeploymentFilter,
        DeploymentFilterName,
        FlowRunFilter,
        FlowRunFilterExpectedStartTime,
    )
    from prefect.client.schemas.sorting import FlowRunSort

    deadline = time.monotonic() + timeout_seconds
    with get_client(sync_client=True) as client:
        while time.monotonic() < deadline:
            runs = client.read_flow_runs(
                deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=[name])),
                flow_run_filter=FlowRunFilter(
                    expected_start_time=FlowRunFilterExpectedStartTime(after_=since)
                ),
                sort=FlowRunSort.EXPECTED_START_TIME_DESC,
                limit=20,
            )
            made = [r for r in runs if r.created_by and r.created_by.type == "AUTOMATION"]
            if made:
                return UUID(str(made[0].id))
            time.sleep(0.5)
    raise UnavailableError(
        f"no automation started {name} in {timeout_seconds:.0f} s; "
        "see Automations and Event Feed in the Prefect UI"
    )


def wait_run(
    settings: Settings,
    run_id: UUID,
    *,
    watching: Callable[[str], None],
    timeout_seconds: float = 1800,
) -> dict[str, Any]:
    """Wait for a run, telling `watching` the task it is at; return what the flow left behind.

    Raises:
        RunFailedError: the run failed, crashed or was cancelled; with the message of its state.
    """
    from prefect.client.orchestration import get_client

    deadline = time.monotonic() + timeout_seconds
    with get_client(sync_client=True) as client:
        while time.monotonic() < deadline:
            run = client.read_flow_run(run_id)
            if run.state is not None and run.state.is_final():
                break
            waiting = str(run.state.name) if run.state else "waiting"
            watching(_current_task(client, run_id) or waiting)
            time.sleep(0.4)
    if run.state is None or not run.state.is_completed():
        state = f"{run.state.name}: {run.state.message}" if run.state else "no state"
        raise RunFailedError(f"flow run {run.name} ({run_id}) did not complete: {state}")
    outcome: dict[str, Any] = json.loads(outcome_path(settings, str(run_id)).read_text())
    return outcome


def end_orphans() -> list[str]:
    """Mark runs of deployments as crashed that an ended `amalgam up` left as running; return names.

    Such a run would hold the one place of its deployment for ever: no later run would begin. Only
    for when nobody runs any. Prefect tells of each as of any crash.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import (
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
    )
    from prefect.client.schemas.objects import State, StateType
    from prefect.client.schemas.sorting import FlowRunSort
    from prefect.states import Crashed

    begun = FlowRunFilterStateType(
        any_=[StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
    )
    ended = []
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=begun)),
            sort=FlowRunSort.EXPECTED_START_TIME_ASC,
            limit=200,  # each deployment runs one at a time
        )
        for run in runs:
            if run.deployment_id is not None:
                crashed: State[Any] = Crashed(message="`amalgam up` ended while it ran")
                client.set_flow_run_state(run.id, crashed)
                ended.append(run.name)
    return ended


def last_runs() -> list[dict[str, Any]]:
    """Return of each deployed flow its last run's state and moment, and when the next is due."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import (
        DeploymentFilter,
        DeploymentFilterId,
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
    )
    from prefect.client.schemas.objects import StateType
    from prefect.client.schemas.sorting import DeploymentSort, FlowRunSort

    waiting = FlowRunFilterStateType(any_=[StateType.SCHEDULED])
    begun = FlowRunFilterStateType(not_any_=[StateType.SCHEDULED])
    found = []
    with get_client(sync_client=True) as client:
        for deployment in client.read_deployments(sort=DeploymentSort.NAME_ASC, limit=50):
            only = DeploymentFilter(id=DeploymentFilterId(any_=[deployment.id]))
            last, due = (
                client.read_flow_runs(
                    deployment_filter=only,
                    flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=state)),
                    sort=sort,
                    limit=1,
                )
                for state, sort in (
                    (begun, FlowRunSort.EXPECTED_START_TIME_DESC),
                    (waiting, FlowRunSort.EXPECTED_START_TIME_ASC),
                )
            )
            at = (last[0].end_time or last[0].start_time) if last else None
            expected = due[0].expected_start_time if due else None
            found.append({
                "flow": deployment.name,
                "state": str(last[0].state_name).lower() if last else None,
                "at": at.isoformat() if at else None,
                "next": expected.isoformat() if expected else None,
            })
    return found


def _current_task(client: Any, run_id: UUID) -> str | None:
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
    from prefect.client.schemas.sorting import TaskRunSort

    only = FlowRunFilter(id=FlowRunFilterId(any_=[run_id]))
    tasks = client.read_task_runs(
        flow_run_filter=only, sort=TaskRunSort.EXPECTED_START_TIME_DESC, limit=20
    )
    running = [task.name for task in tasks if task.state and task.state.is_running()]
    return str(running[0]).rsplit("-", 1)[0].replace("_", " ") if running else None


def deployments_known() -> bool:
    """Say whether the server answers and the deployments are registered there."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.sorting import DeploymentSort

    with get_client(sync_client=True) as client:
        # The client's own defaults for sort and limit are refused by the server.
        found = client.read_deployments(sort=DeploymentSort.NAME_ASC, limit=50)
    return {"ingest", "train", "rollback"} <= {deployment.name for deployment in found}
