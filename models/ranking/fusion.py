"""Fusion: one score from many. What all kinds have in common, how each is fitted, and how a saved
one is found again.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter
from typing import ClassVar, Final, Protocol, Self

from contracts.errors import BadInputError, CorruptError
from models.artifacts import load_json
from models.base import FloatArray
from models.ranking.blend import META, Blend, fit_blend
from models.ranking.blend_softmax import SoftmaxBlend, fit_softmax_blend
from models.ranking.cascade import Cascade
from models.ranking.config import RecipeConfig
from models.ranking.frame import Frame, Widen
from models.ranking.lambdamart import LambdaMART
from models.ranking.stacking import Stacking
from models.ranking.training_rows import FusionRows, RankRows


class Fusion(Protocol):
    """Stage two: scores every candidate of a frame."""

    kind: ClassVar[str]

    @property
    def trees(self) -> LambdaMART | None:
        """The trees in it, None where there are none."""
        ...

    @property
    def item_features(self) -> tuple[str, ...]:
        """Names of the item features that the inputs must bring, in order."""
        ...

    def score(self, frame: Frame, widen: Widen | None = None) -> FloatArray:
        """Score (B, C) candidates; PAD scores -inf.

        `frame` holds all features; or, with `widen`, the base scores alone: then `widen` is asked
        for the others, of no more candidates than it takes. Both ways give equal bytes.
        """
        ...

    def score_rows(self, rows: RankRows) -> FloatArray:
        """Score (N,) rows of whole queries; the values that `score` gives them."""
        ...

    def save(self, folder: Path) -> None:
        """Write below `folder` without pickle."""
        ...

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote; scores are equal bit for bit."""
        ...


# The simplest first: a tie goes to the first.
KINDS: Final[Mapping[str, type[Fusion]]] = {
    Blend.kind: Blend,
    SoftmaxBlend.kind: SoftmaxBlend,
    Stacking.kind: Stacking,
    Cascade.kind: Cascade,
    LambdaMART.kind: LambdaMART,
}


def load_fusion(folder: Path) -> Fusion:
    """Read whichever fusion was saved in `folder`; raises NotFoundError or CorruptError."""
    kind = str(load_json(folder, META).get("kind"))
    if kind not in KINDS:
        raise CorruptError(f"{folder}: unknown fusion '{kind}'; known: {sorted(KINDS)}")
    return KINDS[kind].load(folder)


def fit_kinds(
    kinds: tuple[str, ...],
    data: FusionRows,
    config: RecipeConfig,
    progress: Callable[[str], None],
) -> tuple[dict[str, Fusion], dict[str, str], dict[str, float]]:
    """Fit some of KINDS on the same rows; return them in the order of KINDS, why others are
    missing, and the seconds that each took (the cascade's without those of its blend).

    Raises:
        BadInputError: none could be fitted.
    """
    fitted: dict[str, Fusion] = {}
    failed: dict[str, str] = {}
    seconds: dict[str, float] = {}
    for kind in (kind for kind in KINDS if kind in kinds):
        progress(f"fit the fusion {kind}")
        began = perf_counter()
        try:
            fitted[kind] = _fit(kind, data, config, fitted.get(Blend.kind))
        except BadInputError as error:
            failed[kind] = str(error)
            progress(f"{kind} is left out: {error}")
        seconds[kind] = perf_counter() - began
    if not fitted:
        raise BadInputError("; ".join(failed.values()))
    return fitted, failed, seconds


def _fit(kind: str, data: FusionRows, config: RecipeConfig, blend: Fusion | None) -> Fusion:
    if kind == Blend.kind:
        return fit_blend(data, config.k)
    if kind == SoftmaxBlend.kind:
        return fit_softmax_blend(data)
    if kind == Stacking.kind:
        return Stacking.fit(data)
    if kind == Cascade.kind:
        return Cascade.fit(data, config, blend if isinstance(blend, Blend) else None)
    return LambdaMART.fit(data.train, data.stopping, config)
