"""What came of a search of options: its figures, and the winner as a section of a settings file."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from contracts.atomic import write_text
from contracts.errors import RefusedError
from contracts.settings import Settings
from flows.settings_edit import section_text, write_section
from flows.steps.training import recipe
from flows.steps.trials import PRESENT, REASON, TuneRequest, finished

if TYPE_CHECKING:
    import optuna

    from models.search_spaces import Params

SHOWN: Final = 10
"""Best trials that are shown."""
NOW: Final = "now"
DATA_VERSIONS: Final = "data_versions"
"""Attributes of a study: the moment it is for, and the versions of the lake that it reads."""
_STATES: Final = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}


def tuning_folder(settings: Settings) -> Path:
    """Return where studies and their winners lie."""
    return settings.home / "tuning"


def write_winner(
    settings: Settings, request: TuneRequest, study: "optuna.Study", written: datetime
) -> dict[str, Any]:
    """Write the winner's file, and return the study's figures, best trial first."""
    trials = finished(study)
    failures = sorted({trial.user_attrs[REASON] for trial in trials if REASON in trial.user_attrs})
    # The first of equals wins: the present settings, where nothing is better.
    ranked = sorted(
        (trial for trial in trials if trial.value is not None and trial.state.name == "COMPLETE"),
        key=lambda trial: (-float(trial.value or 0.0), trial.number),
    )
    if not ranked:
        reasons = "; ".join(failures) or "there was time for none"
        raise RefusedError(f"no trial of '{request.model}' gave a result: {reasons}")
    rows = [_row(trial) for trial in ranked]
    present = next((row["value"] for row in rows if row["present"]), None)
    states = [_STATES[trial.state.name] for trial in trials]
    outcome: dict[str, Any] = {
        "model": request.model,
        "study": study.study_name,
        "metric": f"ndcg@{recipe(settings).k}",
        "finished": len(trials),
        "states": {name: states.count(name) for name in _STATES.values()},
        "failures": failures,
        "present": present,
        "best": rows[0],
        "trials": rows[:SHOWN],
        "now": study.user_attrs[NOW],
        "window": _window(settings, datetime.fromisoformat(study.user_attrs[NOW])),
        "data_versions": study.user_attrs[DATA_VERSIONS],
        "seed": request.seed,
        "section": winner_section(settings, request.model, rows[0]["params"]),
        "file": str(tuning_folder(settings) / f"{request.model}.toml"),
    }
    write_text(Path(outcome["file"]), _winner_text(outcome, written))
    return outcome


def _window(settings: Settings, now: datetime) -> list[str]:
    """Return the days at which the rank window begins and ends."""
    from models.evaluation.roles import Roles

    roles = Roles.of(now, recipe(settings))
    return [f"{end:%Y-%m-%d}" for end in (roles.fit_end, roles.rank_end)]


def _row(trial: "optuna.trial.FrozenTrial") -> dict[str, Any]:
    from models.search_spaces import rounded

    present = PRESENT in trial.user_attrs
    seconds = trial.duration.total_seconds() if trial.duration else 0.0
    return {
        "number": trial.number,
        "value": trial.value,
        "present": present,
        "seconds": round(seconds, 3),
        "params": dict(trial.params if present else rounded(trial.params)),
    }


def winner_section(settings: Settings, model: str, params: "Params") -> dict[str, Any]:
    """Return the name of the settings section that holds these options, and its values."""
    from models.search_spaces import EVENT_WEIGHTS, RANKER, with_params

    if model == RANKER:
        return {"name": ["training"], "values": dict(params)}
    if model == EVENT_WEIGHTS:
        weights = {**recipe(settings).event_weights, **params}
        return {"name": ["training"], "values": {"event_weights": weights}}
    options = settings.retrievers.get(model, {})
    return {"name": ["retrievers", model], "values": with_params(options, params)}


def keep_winner(outcome: Mapping[str, Any], path: Path) -> None:
    """Put the winner into the settings file at `path`.

    A file without any retriever's section stands for the default ones: they get theirs too, or the
    tuned one would be the only one that is trained.
    """
    from models.registry import DEFAULT_RETRIEVERS

    name, values = outcome["section"]["name"], outcome["section"]["values"]
    beside = DEFAULT_RETRIEVERS if name[0] == "retrievers" else ()
    write_section(path, name, values, beside)


def _winner_text(outcome: Mapping[str, Any], written: datetime) -> str:
    best, present = outcome["best"]["value"], outcome["present"]
    against = "the present settings gave no result"
    if present is not None:
        against = f"{present:.6f} with the settings before"
    versions = ", ".join(f"{name} {at}" for name, at in outcome["data_versions"].items())
    states = ", ".join(f"{count} {name}" for name, count in outcome["states"].items())
    comment = [
        f"{outcome['metric']} {best:.6f} ({against}), on the rank window from "
        f"{' to '.join(outcome['window'])}.",
        f"Best of {outcome['finished']} trials ({states}) of study {outcome['study']}, "
        f"seed {outcome['seed']}.",
        f"Versions of the data: {versions or 'none'}. "
        f"Written {written.astimezone(UTC):%Y-%m-%d %H:%M} UTC.",
        "This is one section of a settings file: copy it, or let `amalgam tune "
        f"{outcome['model']} --write FILE` do so.",
    ]
    section = outcome["section"]
    lines = "".join(f"# {line}\n" for line in comment)
    return lines + section_text(section["name"], section["values"])
