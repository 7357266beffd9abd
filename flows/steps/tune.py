"""Steps of a search of options: a study that is resumed, on data that are read once."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from contracts.errors import UnavailableError
from contracts.settings import Settings
from flows.steps.history import moment_of, read_history
from flows.steps.outcome import moment, tell
from flows.steps.training import join_features, recipe
from flows.steps.trials import TuneRequest, finished, run_trials
from flows.steps.winner import DATA_VERSIONS, NOW, tuning_folder, write_winner

if TYPE_CHECKING:
    import optuna

    from models.recipe import TrainingInputs

BEFORE_PRUNING: Final = 5
"""Complete trials before one that stays under their median is ended early."""


Read = Callable[[Settings, datetime, str | None], tuple["TrainingInputs", dict[str, int]]]
"""Returns the inputs of a training at a moment, and the lake's versions that were read."""


def tune(
    settings: Settings, request: TuneRequest, *, written: datetime, read: Read | None = None
) -> dict[str, Any]:
    """Run trials until the study has as many as asked for; keep the winner; say what came of it.

    Nothing is read or run when it has them already. `written` is the date in the winner's file.

    Raises:
        BadInputError: the model is not known, or the data are too short.
        UnavailableError: another process tunes this model.
        RefusedError: no trial gave a result.
    """
    from filelock import FileLock, Timeout

    from models.search_spaces import check_model

    check_model(request.model)
    folder = tuning_folder(settings)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with (
            FileLock(folder / f"{request.model}.lock", timeout=0),
            _storage(settings, request) as kept,
        ):
            study = open_study(settings, request, kept)
            _run(settings, request, study, read or read_inputs)
            return write_winner(settings, request, study, written)
    except Timeout:
        raise UnavailableError(
            f"'{request.model}' is being tuned by another process; wait for it, or end it"
        ) from None


@contextmanager
def _storage(settings: Settings, request: TuneRequest) -> "Iterator[optuna.storages.RDBStorage]":
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    path = tuning_folder(settings) / f"{request.model}.db"
    storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


def open_study(
    settings: Settings, request: TuneRequest, storage: "optuna.storages.BaseStorage"
) -> "optuna.Study":
    """Return the study of these data and settings, made if missing; a trial that a kill left
    running is marked failed.
    """
    import optuna

    identity = study_identity(settings, request)
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    study = optuna.create_study(
        study_name=f"{request.model}-{digest[:16]}",
        storage=storage,
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=BEFORE_PRUNING),
    )
    if NOW not in study.user_attrs:
        at = request.now or (moment_of(settings, request.as_of) if request.as_of else None)
        study.set_user_attr(DATA_VERSIONS, identity[DATA_VERSIONS])
        study.set_user_attr(NOW, moment(settings, at).isoformat())
    for trial in study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.RUNNING]):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    return study


def study_identity(settings: Settings, request: TuneRequest) -> dict[str, Any]:
    """Return all that decides what a trial is worth: other data or settings are another study."""
    from models.ranking.first_stage import POPULARITY
    from models.search_spaces import EVENT_WEIGHTS, RANKER, SPACES

    options = retriever_options(settings)
    if request.model not in {RANKER, EVENT_WEIGHTS}:
        options = {name: options.get(name, {}) for name in {request.model, POPULARITY}}
    return {
        DATA_VERSIONS: data_versions(settings, request.as_of),
        "recipe": recipe(settings).to_json(),
        "retrievers": {name: dict(options[name]) for name in sorted(options)},
        "space": repr(SPACES[request.model]),
        "now": request.now.isoformat() if request.now else request.as_of,
    }


def data_versions(settings: Settings, as_of: str | None) -> dict[str, int]:
    """Return the versions of the lake's tables, now or as a release read them."""
    from lake.store import Lake
    from services.registry import Releases

    if as_of is None:
        return Lake(settings.lake).versions()
    versions: dict[str, int] = Releases(settings.registry).card(as_of)["data_versions"]
    return versions


def retriever_options(settings: Settings) -> Mapping[str, Mapping[str, Any]]:
    """Return the options of every retriever that a training fits."""
    from models.registry import DEFAULT_RETRIEVERS

    return settings.retrievers or {name: {} for name in DEFAULT_RETRIEVERS}


def read_inputs(
    settings: Settings, now: datetime, as_of: str | None
) -> "tuple[TrainingInputs, dict[str, int]]":
    """Read history and features as a training does, in a folder of its own that is then deleted."""
    from flows.steps.people import forget_late

    root = settings.features / "tuning"
    tell("read history")
    history = read_history(settings, now, as_of)
    tell("join features")
    try:
        inputs = join_features(settings, history, now, root=root)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    forget_late(settings, now)
    return inputs, history.versions


def _run(settings: Settings, request: TuneRequest, study: "optuna.Study", read: Read) -> None:
    """Make the objective, and run the trials that are missing."""
    if len(finished(study)) >= request.trials:
        return
    from models.recipe import prepare
    from models.tuning import make_objective

    now = datetime.fromisoformat(study.user_attrs[NOW])
    inputs, versions = read(settings, now, request.as_of)
    if versions != study.user_attrs[DATA_VERSIONS]:
        raise UnavailableError(
            "the lake changed while it was read; run the command again, or hold the data still "
            "with --as-of RELEASE"
        )
    prepared = prepare(inputs, recipe(settings))
    objective = make_objective(request.model, prepared, retriever_options(settings), tell)
    limit = None if request.minutes is None else timedelta(minutes=request.minutes)
    run_trials(study, objective, request, limit)
