"""Fusion: one score from many. What both kinds have in common, and how a saved one is found
again.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Final, Protocol, Self

from contracts.errors import CorruptError
from models.artifacts import load_json
from models.base import FloatArray
from models.ranking.blend import META, Blend
from models.ranking.frame import Frame
from models.ranking.lambdamart import LambdaMART


class Fusion(Protocol):
    """Stage two: scores every candidate of a frame."""

    kind: ClassVar[str]

    def score(self, frame: Frame) -> FloatArray:
        """Score (B, C) candidates; PAD scores -inf."""
        ...

    def save(self, folder: Path) -> None:
        """Write below `folder` without pickle."""
        ...

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote; scores are equal bit for bit."""
        ...


KINDS: Final[Mapping[str, type[LambdaMART] | type[Blend]]] = {
    LambdaMART.kind: LambdaMART,
    Blend.kind: Blend,
}


def load_fusion(folder: Path) -> LambdaMART | Blend:
    """Read whichever fusion was saved in `folder`; raises NotFoundError or CorruptError."""
    kind = str(load_json(folder, META).get("kind"))
    if kind not in KINDS:
        raise CorruptError(f"{folder}: unknown fusion '{kind}'; known: {sorted(KINDS)}")
    return KINDS[kind].load(folder)
