"""Steps of an experiment: begin one, measure it, act on what was measured, end it by hand.

One runs at a time. Each step can be run again after it was ended at any moment: the champion's
pointer and the line in experiments.jsonl are what counts, and the registry makes up for what stands
between the two (services/registry.py).
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from contracts import columns as c
from contracts.atomic import write_json
from contracts.errors import (
    BadInputError,
    CorruptError,
    NotFoundError,
    RefusedError,
    UnavailableError,
)
from contracts.settings import Settings
from flows.steps.champion import SERVED_SECONDS, move_champion
from flows.steps.outcome import midnight, tell

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

    from contracts.experiment import Experiment, Kind, Outcome
    from monitoring.arms import Arms
    from services.registry import Releases

BEGIN: Final = "experiment"
END: Final = "end experiment"
"""What the audit log calls an experiment's begin and its end."""
DAY: Final = timedelta(days=1)


def begin_experiment(
    settings: Settings,
    version: str,
    now: datetime,
    who: str,
    why: str,
    *,
    kind: "Kind" = "canary",
    share: float | None = None,
) -> dict[str, Any]:
    """Let a release answer a share of the shoppers beside the champion, audited; done when every
    worker serves it.

    Raises:
        NotFoundError: there is no champion, or no such release.
        RefusedError: another experiment runs, the gate refused the release, or it is the champion
            (which only an `ab` compares with itself: an A/A test).
        BadInputError: the share leaves one arm empty.
        UnavailableError: a worker does not serve it; it was ended again, as `stopped`.
    """
    from contracts.experiment import Experiment, to_json
    from services.experiments import end_experiment, next_id, write_experiment
    from services.registry import Releases

    releases = Releases(settings.registry)
    champion = releases.champion()
    if champion is None:
        raise NotFoundError(f"there is no champion to compare {version} with; first: amalgam train")
    if champion.version == version and kind != "ab":
        raise RefusedError(
            f"release {version} is the champion; name a challenger, or try --kind ab for an A/A "
            "test"
        )
    wanted = settings.experiment.share if share is None else share
    if not 0.0 < wanted < 1.0:
        raise BadInputError(f"share {wanted} leaves one arm empty; give one between 0 and 1")
    name = next_id(settings.registry)
    experiment = Experiment(
        id=name,
        kind=kind,
        control=champion.version,
        challenger=version,
        share=wanted,
        salt=f"{name}/{now.isoformat()}",
        started=now,
        who=who,
        why=why,
    )
    write_experiment(settings.registry, experiment)
    _note(releases)
    try:
        workers = releases.workers.wait(name, SERVED_SECONDS, what="experiment")
    except UnavailableError as error:
        # Shown to some workers' shoppers only, it would be no comparison, and hold up the next.
        end_experiment(settings.registry, name, outcome="stopped", who=who, why=str(error), now=now)
        _note(releases)
        raise
    return to_json(experiment) | {"workers": len(workers)}


def waits_for(settings: Settings, version: str) -> str | None:
    """Return why a release that passed the gate has to wait, None where nothing runs.

    A damaged experiment.json keeps no champion from moving, but no canary can begin beside it.
    """
    from services.experiments import read_experiment

    try:
        running = read_experiment(settings.registry)
    except CorruptError as error:
        told = f"held: experiment.json is damaged, no canary can begin: {error}; then: amalgam "
        return f"{told}experiment start {version}" if canary_first(settings) else None
    if running is None:
        return None
    return (
        f"held: experiment {running.id} runs between {running.control} and {running.challenger}; "
        f"when it has ended: amalgam experiment start {version}, or amalgam promote {version}"
    )


def canary_first(settings: Settings) -> bool:
    """Say whether a release that passed the gate is shown to a share of the shoppers first.

    So `[experiment] promotion` says; the first release has no champion to be compared with.
    """
    from services.registry import Releases

    chosen = settings.experiment.promotion == "canary"
    return chosen and Releases(settings.registry).champion() is not None


def measure_experiment(settings: Settings, now: datetime) -> dict[str, Any]:
    """Measure the running experiment and say what is to be done; nothing is changed.

    Returns {"running": None} where none is; else `running` (the experiment), `days` from its first
    list (of a shadow from its begin) for which its lists had their time, `decision` (None of a
    shadow), `action`, `reasons`, `crossed`, `bots`, `shadow_lists`.
    """
    from contracts.experiment import SHADOW, to_json
    from monitoring.arms import count_shadow
    from monitoring.sequential import decide_experiment
    from services.experiments import read_experiment

    experiment = read_experiment(settings.registry)
    if experiment is None:
        return {"running": None}
    before = now - timedelta(hours=settings.monitor.attribution_hours)
    age = _days_to(before, experiment.started)
    found: dict[str, Any] = {"running": to_json(experiment), "now": now.isoformat(), "days": age}
    if experiment.kind == SHADOW:
        lists = sum(
            count_shadow(_log(settings, since, until), experiment=experiment.id)
            for since, until in _days(experiment.started, now)
        )
        limit = settings.experiment.maximum_days
        over = now - experiment.started >= limit * DAY
        return found | {
            "action": "stop" if over else "continue",
            "reasons": [f"{lists:,} lists scored beside", *([f"{limit:g} days are over"] * over)],
            "decision": None,
            "shadow_lists": lists,
        }
    arms = _count(settings, experiment, before, now)
    # Days in which nobody was shown anything tell nothing, but they pass.
    days = _days_to(before, max(experiment.started, arms.first)) if arms.first else 0.0
    decision = decide_experiment(
        arms.control,
        arms.challenger,
        share=experiment.share,
        days=days,
        age=age,
        moves=experiment.kind == "canary",
        settings=settings.experiment,
    )
    return found | {
        "days": days,
        "action": decision.action,
        "reasons": list(decision.reasons),
        "decision": decision.to_dict(),
        "metric": settings.experiment.metric,
        "crossed": arms.crossed,
        "bots": arms.bots,
    }


def act_on_experiment(settings: Settings, found: dict[str, Any], now: datetime) -> dict[str, Any]:
    """Do what `measure_experiment` found is to be done; return it with what was done.

    `ended`: the outcome, None where it goes on, or where somebody ended it since it was measured;
    `champion`: the move, None where it did not.
    """
    from services.registry import Releases

    experiment, releases = found["running"], Releases(settings.registry)
    _note(releases)
    done: dict[str, Any] = {"ended": None, "champion": None}
    if experiment is None:
        return found | done
    write_json(settings.reports / "experiments" / f"{experiment['id']}.json", found)
    outcomes: dict[str, Outcome] = {
        "promote": "promoted",
        "rollback": "rolled_back",
        "stop": "inconclusive",
    }
    outcome = outcomes.get(found["action"])
    if outcome is None:
        return found | done
    name, why = experiment["id"], "; ".join(found["reasons"])
    who = f"experiment {name}"
    try:
        return found | close_experiment(
            settings, now, who, why, outcome=outcome, result=found, experiment_id=name
        )
    except RefusedError as error:
        running = releases.experiments.readable()
        if running is not None and running.id == name:
            raise
        undone = f"nothing is done: {error}"
        tell(undone)
        return found | done | {"reasons": [*found["reasons"], undone]}


def close_experiment(
    settings: Settings,
    now: datetime,
    who: str,
    why: str,
    *,
    outcome: "Outcome",
    result: dict[str, Any] | None = None,
    experiment_id: str | None = None,
) -> dict[str, Any]:
    """End the running experiment, audited; `promoted` moves the champion first. Done when every
    worker follows.

    Args:
        result: what was measured, as JSON values.
        experiment_id: the one that is meant; without it, whichever runs.

    Raises:
        NotFoundError: none is running.
        RefusedError: it only scored, and `promoted` is asked for; or the gate refused the release;
            or somebody else ended the one that is meant.
    """
    from contracts.experiment import SHADOW
    from services.experiments import end_experiment, read_experiment
    from services.registry import Releases

    experiment = read_experiment(settings.registry)
    if experiment_id is not None and (experiment is None or experiment.id != experiment_id):
        raise RefusedError(f"experiment {experiment_id} is not running any more")
    if experiment is None:
        raise NotFoundError("no experiment is running; start one: amalgam experiment start VERSION")
    if experiment.kind == SHADOW and outcome == "promoted":
        raise RefusedError(
            f"experiment {experiment.id} scored in shadow: nobody saw its lists; end it, then "
            f"amalgam promote {experiment.challenger} or amalgam experiment start"
        )
    releases = Releases(settings.registry)
    moved = None
    if outcome == "promoted" and experiment.challenger != experiment.control:
        # The registry ends it in the same act, if it still runs by then.
        moved = move_champion(
            settings,
            experiment.challenger,
            now,
            who,
            why,
            None,
            experiment=experiment.id,
            result=result,
        )
    else:
        line = end_experiment(
            settings.registry,
            experiment.id,
            outcome=outcome,
            who=who,
            why=why,
            now=now,
            result=result,
        )
        if (line["outcome"], line["ended_by"]) != (outcome, who):
            raise RefusedError(
                f"experiment {experiment.id} is not running any more; {line['ended_by']} ended it: "
                f"{line['outcome']}"
            )
    _note(releases)
    releases.workers.wait(None, SERVED_SECONDS, what="experiment")
    tell(f"experiment {experiment.id} ended: {outcome}")
    return {
        "id": experiment.id,
        "challenger": experiment.challenger,
        "control": experiment.control,
        "ended": outcome,
        "who": who,
        "why": why,
        "champion": moved,
    }


def _count(settings: Settings, experiment: "Experiment", before: datetime, now: datetime) -> "Arms":
    """Sum up both arms over the lists before a moment, a day at a time."""
    from lake.store import Lake
    from monitoring.arms import EVENT_COLUMNS, bots_among, shoppers_of, sum_arms

    lake, hours = Lake(settings.lake), settings.monitor.attribution_hours
    limit, logins = _bot_limit(settings, experiment.control), lake.read("alias", before=now)
    parts: list[pa.Table] = []
    bots: set[str] = set()
    for since, until in _days(experiment.started, before) or [(before, before)]:
        events = lake.read(
            "interactions",
            since=since,
            before=min(until + timedelta(hours=hours), now),
            columns=EVENT_COLUMNS,
        )
        log = _log(settings, since, until)
        parts.append(
            shoppers_of(log, events, logins, experiment=experiment.id, attribution_hours=hours)
        )
        day = _before(events, until)
        bots |= bots_among(day, limit)
    metric = settings.experiment.metric
    return sum_arms(parts, experiment=experiment.id, metric=metric, bots=bots)


def _days_to(before: datetime, since: datetime) -> float:
    return max((before - since) / DAY, 0.0)


def _days(started: datetime, before: datetime) -> "Sequence[tuple[datetime, datetime]]":
    """Return [started, before) cut at every UTC midnight."""

    def cut() -> Iterator[tuple[datetime, datetime]]:
        since = started.astimezone(UTC)
        while since < before:
            until = min(midnight(since) + DAY, before)
            yield since, until
            since = until

    return list(cut())


def _log(settings: Settings, since: datetime, before: datetime) -> "pa.Table":
    from lake.store import Lake
    from monitoring.arms import LOG_COLUMNS

    return Lake(settings.lake).read(
        "prediction_log", since=since, before=before, columns=LOG_COLUMNS
    )


def _before(events: "pa.Table", until: datetime) -> "pa.Table":
    import pyarrow as pa
    import pyarrow.compute as pc

    times = events[c.EVENT_TIMESTAMP]
    return events.filter(pc.less(times, pa.scalar(until, times.type)))


def _bot_limit(settings: Settings, version: str) -> float:
    """Return the events of a shopper's day above which a release's profile calls it a bot's; of one
    without a profile that can be read, what the settings never call too many.
    """
    from flows.steps.watch import PROFILE
    from monitoring.profile import Profile
    from services.registry import Releases

    path = Releases(settings.registry).path(version) / PROFILE
    profile = Profile.load(path) if path.exists() else None
    usual = float(settings.monitor.bot_events_per_day)
    return usual if profile is None else profile.learnt.bot_limit


def _note(releases: "Releases") -> None:
    """Add the audit lines of begins and ends that lack them, whoever began or ended them.

    The files of experiments are written first, so that what a kill left out is made up for here.
    """
    from contracts.experiment import to_json

    with releases.locked():
        running = releases.experiments.readable()
        begun = [*releases.experiments.ended(), *([to_json(running)] if running else [])]
        known = {(line["action"], line.get("experiment")) for line in releases.audit.lines()}
        for told in begun:
            line = {
                "experiment": told["id"],
                "version": told["challenger"],
                "previous": told["control"],
                "kind": told["kind"],
                "share": told["share"],
            }
            if (BEGIN, told["id"]) not in known:
                made = {"who": told["who"], "why": told["why"], "at": told["started"]}
                releases.audit.append(line | made | {"action": BEGIN})
            if "ended" in told and (END, told["id"]) not in known:
                why = f"{told['outcome'].replace('_', ' ')}: {told['ended_why']}"
                made = {"who": told["ended_by"], "why": why, "at": told["ended"]}
                releases.audit.append(line | made | {"action": END})
