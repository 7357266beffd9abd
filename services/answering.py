"""How each list is answered: before anything is scored in shadow, and by the champion where an
experiment's challenger cannot.
"""

import logging
from collections.abc import Callable
from functools import wraps
from typing import Protocol, TypeVar

from contracts.errors import AmalgamError
from services.arms import Chosen
from services.holder import Holder
from services.metrics import Metrics
from services.seldom import Seldom
from services.shadow import Shadow

log = logging.getLogger(__name__)


class _Worker(Protocol):
    _holder: Holder
    _shadow: Shadow
    _metrics: Metrics | None
    _failures: Seldom


W_contra = TypeVar("W_contra", bound=_Worker, contravariant=True)
Asked_contra = TypeVar("Asked_contra", contravariant=True)
Told_co = TypeVar("Told_co", covariant=True)


class _Method(Protocol[W_contra, Asked_contra, Told_co]):
    def __call__(
        self, worker: W_contra, request: Asked_contra, /, *, spare: bool = False
    ) -> Told_co: ...


class ChallengerFailedError(Exception):
    """The model of an experiment's challenger failed: the champion can answer instead.

    It is no AmalgamError, for nothing is wrong with the request; nobody outside hears of it.
    """


def need_model(chosen: Chosen, *, failed: bool) -> None:
    """Raise ChallengerFailedError where the model `failed` and the champion is not asked yet.

    A list of the ladder's lower rungs is better than none, but not better than the champion's.
    """
    if failed and chosen.instead is not None:
        raise ChallengerFailedError(f"the model of release {chosen.engine.version} failed")


def answers(
    method: _Method[W_contra, Asked_contra, Told_co],
) -> Callable[[W_contra, Asked_contra], Told_co]:
    """Make a method of a worker one that answers a request whatever an experiment does.

    Where it fails while an experiment runs, it is called once more with `spare`: the champion's
    engine then answers, in the name of the same arm. What is wrong with the request is raised.
    The log has one such fault a minute, the counter all.
    """

    @wraps(method)
    def answered(self: W_contra, request: Asked_contra) -> Told_co:
        with self._shadow.foreground():
            arms = self._holder.current.arms
            try:
                return method(self, request)
            except AmalgamError:
                raise
            # Whatever is wrong with a challenger, its shoppers get a list.
            except Exception:
                if arms is None:
                    raise
                if self._failures.due():
                    log.exception("experiment %s: a request failed", arms.experiment.id)
            answer = method(self, request, spare=True)
            if self._metrics is not None:
                self._metrics.challenger_failed(arms.experiment.id)
            return answer

    return answered
