"""What every system costs: seconds to fit, bytes on disk, milliseconds a request, as measured."""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Final

from models.ranking.first_stage import FirstStage
from models.ranking.frame import base_frame
from models.ranking.fusion import Fusion
from models.ranking.inputs import QueryInputs

_REQUESTS: Final = 12
_FEWEST: Final = 5
_SECONDS: Final = 0.5


@dataclass(frozen=True)
class Cost:
    """One system. None where it was not measured.

    fit_seconds     wall time of the fit before the rank window
    bytes           of its own files; a fusion needs the parts beside them
    ms_per_request  median of answering one test query alone, from history to list, as in a service
    """

    fit_seconds: float | None
    bytes: int | None
    ms_per_request: float | None


def measure_requests(
    stage: FirstStage, fusions: Mapping[str, Fusion], inputs: QueryInputs, k: int
) -> dict[str, float]:
    """Return the median milliseconds that each part and each fusion takes for one query.

    At most 12 queries a system, fewer once half a second is spent; the first call warms up and does
    not count.
    """

    def part(name: str) -> Callable[[QueryInputs], object]:
        return lambda one: stage.ask(one).base_list(name, k)

    def fused(fusion: Fusion) -> Callable[[QueryInputs], object]:
        def answer(one: QueryInputs) -> object:
            question = stage.ask(one)
            found = question.candidates(stage.config.max_candidates, at_least=k)
            return fusion.score(base_frame(found), question.widen)

        return answer

    answers = {name: part(name) for name in stage.names}
    answers |= {kind: fused(fusion) for kind, fusion in fusions.items()}
    return {name: _milliseconds(answer, inputs) for name, answer in answers.items()}


def _milliseconds(answer: Callable[[QueryInputs], object], inputs: QueryInputs) -> float:
    answer(inputs[:1])
    taken: list[float] = []
    for row in range(min(_REQUESTS, len(inputs))):  # requests come one by one: that is measured
        began = perf_counter()
        answer(inputs[row : row + 1])
        taken.append(perf_counter() - began)
        if len(taken) >= _FEWEST and sum(taken) > _SECONDS:
            break
    return 1000.0 * median(taken)


def bytes_below(folder: Path) -> int:
    """Return the size of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def fusion_bytes(fusions: Mapping[str, Fusion]) -> dict[str, int]:
    """Return what each fusion takes on disk, by saving it once."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind, fusion in fusions.items():
            fusion.save(Path(folder) / kind)
            found[kind] = bytes_below(Path(folder) / kind)
    return found
