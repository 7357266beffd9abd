"""How each list is answered: before anything is scored in shadow, and by the champion where an
experiment's challenger cannot.
"""

import logging
from collections.abc import Callable
from functools import wraps
from typing import Protocol, TypeVar

from contracts.errors import AmalgamError
from services.holder import Holder
from services.metrics import Metrics
from services.shadow import Shadow

log = logging.getLogger(__name__)


class _Worker(Protocol):
    _holder: Holder
    _shadow: Shadow
    _metrics: Metrics | None


W_contra = TypeVar("W_contra", bound=_Worker, contravariant=True)
Asked_contra = TypeVar("Asked_contra", contravariant=True)
Told_co = TypeVar("Told_co", covariant=True)


class _Method(Protocol[W_contra, Asked_contra, Told_co]):
    def __call__(
        self, worker: W_contra, request: Asked_contra, /, *, spare: bool = False
    ) -> Told_co: ...


def answers(
    method: _Method[W_contra, Asked_contra, Told_co],
) -> Callable[[W_contra, Asked_contra], Told_co]:
    """Make a method of a worker one that answers a request whatever an experiment does.

    Where it fails while an experiment runs, it is called once more with `spare`: the champion's
    engine then answers, in the name of the same arm. What is wrong with the request is raised.
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
                log.exception("experiment %s: a request failed", arms.experiment.id)
            answer = method(self, request, spare=True)
            if self._metrics is not None:
                self._metrics.challenger_failed(arms.experiment.id)
            return answer

    return answered
