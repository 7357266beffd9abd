"""Who asked for the flow run of this moment, for the audit log: a person, a schedule, an
automation."""

from dataclasses import dataclass
from typing import Any, Final

SCHEDULE: Final = "the schedule"


@dataclass(frozen=True)
class Asker:
    """`name` is for people; `by_hand` is False of what no person asked for."""

    name: str
    by_hand: bool


def asker(operator: str | None) -> Asker:
    """Return who asked for the run that this is called in; `operator` is the name a person gave."""
    from prefect.context import FlowRunContext

    context = FlowRunContext.get()
    return who_asked(None if context is None else context.flow_run, operator)


def who_asked(run: Any, operator: str | None) -> Asker:
    """Return who asked for a run, a `FlowRun` of Prefect's, or None outside of any.

    Prefect's own server knows of no users: who presses a button there is told by the parameter.
    """
    maker = None if run is None else run.created_by
    if maker is not None and maker.type == "AUTOMATION":
        return Asker(f"the automation '{maker.display_value or maker.id}'", by_hand=False)
    if run is not None and (run.auto_scheduled or (maker and maker.type == "SCHEDULE")):
        return Asker(SCHEDULE, by_hand=False)
    if (operator or "").strip():
        return Asker(str(operator).strip(), by_hand=True)
    if run is not None and run.deployment_id is not None:
        return Asker("somebody in the Prefect UI", by_hand=True)
    return Asker("somebody on the command line", by_hand=True)
