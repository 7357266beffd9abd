"""What must reach people: a line in the log and an event, which an automation posts to a webhook.

Events, their payload always with a `text` for people:
    amalgam.batch.blocked      nothing of a batch landed: a rule over whole batches broke
    amalgam.drift.found        the world moved, and a training starts
    amalgam.drift.held         the world moved, and no training starts: cool-down, hold
    amalgam.feed.broken        what comes in is not the shop: nothing was compared or learnt from
    amalgam.training.refused   the gate refused a release
    amalgam.training.held      a release passed the gate and waits: a rollback holds the champion,
                               or an experiment runs
    amalgam.champion.moved     another release is served
    amalgam.experiment.started a challenger answers a share of the shoppers
    amalgam.experiment.ended   it is promoted, rolled back, or the experiment ended without
A flow run that failed is told of by Prefect's own event (flows/webhook.py).
"""

import logging
from typing import Any, Final

from prefect.events import emit_event

from flows.steps.outcome import LOGGER
from flows.steps.watch import training_reason

BLOCKED: Final = "amalgam.batch.blocked"
DRIFT: Final = "amalgam.drift.found"
DRIFT_HELD: Final = "amalgam.drift.held"
FEED: Final = "amalgam.feed.broken"
REFUSED: Final = "amalgam.training.refused"
HELD: Final = "amalgam.training.held"
MOVED: Final = "amalgam.champion.moved"
STARTED: Final = "amalgam.experiment.started"
ENDED: Final = "amalgam.experiment.ended"
EVENTS: Final = (BLOCKED, DRIFT, DRIFT_HELD, FEED, REFUSED, HELD, MOVED, STARTED, ENDED)


def alert(event: str, resource: str, text: str, **payload: Any) -> None:
    """Log a line and raise the event about `resource`, a dotted name; whoever listens is told.

    Nothing is awaited and no server needed: it never fails a flow.
    """
    logging.getLogger(LOGGER).warning("%s: %s", event, text)
    emit_event(
        event=event,
        resource={"prefect.resource.id": resource},
        payload={"text": text, **payload},
    )


def batch_blocked(resource: dict[str, str], payload: dict[str, Any]) -> None:
    """Tell of a batch of which nothing landed."""
    rules = ", ".join(str(rule["rule"]) for rule in payload["rules"])
    text = f"a batch of {payload['table']} from {payload['source']} is blocked: {rules}"
    alert(BLOCKED, resource["prefect.resource.id"], text, **payload)


def drift_judged(verdict: dict[str, Any], now: str) -> None:
    """Tell of drift, and whether it starts a training, or of a broken feed; else nothing."""
    reason = "; ".join(verdict["reasons"])
    told = {"now": now, "reason": reason, "report": verdict["report"]}
    resource = f"amalgam.release.{verdict['release']}"
    if verdict["retrain"]:
        told["reason"] = training_reason(verdict)
        alert(DRIFT, resource, f"{verdict['cause']}, a training starts: {reason}", **told)
    elif verdict["verdict"] == "drift":
        alert(DRIFT_HELD, resource, f"drift, no training starts: {reason}", **told)
    elif verdict["verdict"] == "broken feed":
        alert(FEED, resource, reason, **told)


def training_judged(release: dict[str, Any]) -> None:
    """Tell of a release that the gate refused, or that a hold keeps from being served."""
    version = release["version"]
    resource, told = f"amalgam.release.{version}", {"version": version, "report": release["report"]}
    if not release["passed"]:
        why = "; ".join(release["reasons"])
        alert(REFUSED, resource, f"the gate refused release {version}: {why}", **told)
    elif release.get("held"):
        alert(HELD, resource, f"release {version} passed, but is {release['held']}", **told)


def champion_moved(moved: dict[str, Any], now: str) -> None:
    """Tell which release is served now; of a move to where it was already nothing."""
    if not moved["moved"]:
        return
    names = ("action", "version", "previous", "who", "why")
    text = "release {version} is served (was {previous}): {action} by {who}: {why}".format(**moved)
    told = {name: moved[name] for name in names}
    alert(MOVED, f"amalgam.release.{moved['version']}", text, **told, now=now)


def experiment_begun(experiment: dict[str, Any]) -> None:
    """Tell which release is compared with the champion, and on how many."""
    names = ("id", "kind", "control", "challenger", "share", "who", "why")
    text = (
        "experiment {id} ({kind}): release {challenger} beside {control} for {share:.0%} of the "
        "shoppers, by {who}: {why}"
    ).format(**experiment)
    told = {name: experiment[name] for name in names}
    alert(STARTED, f"amalgam.release.{experiment['challenger']}", text, **told)


def experiment_judged(acted: dict[str, Any], now: str) -> None:
    """Tell how an experiment ended, and of the champion's move; of one that goes on nothing."""
    if acted["ended"] is None:
        return
    names = ("id", "control", "challenger", "ended", "who", "why")
    word = acted["ended"].replace("_", " ")
    text = f"experiment {acted['id']}, release {acted['challenger']}: {word}: {acted['why']}"
    told = {name: acted[name] for name in names}
    alert(ENDED, f"amalgam.release.{acted['challenger']}", text, **told)
    if acted["champion"] is not None:
        champion_moved(acted["champion"], now)
