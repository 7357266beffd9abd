"""BSARec: SASRec beside a moving average, which keeps what attention would smooth away."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from models.base import FloatArray
from models.retrieval.sasrec import SASRec, SASRecConfig

if TYPE_CHECKING:
    from models.retrieval.sasrec_network import SASRecNetwork


@dataclass(frozen=True)
class BSARecConfig(SASRecConfig):
    """Options of BSARec."""

    filter_share: float = 0.7
    """Share of the moving average in each block; the rest is attention."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.filter_share < 1:
            raise ValueError(f"filter_share = {self.filter_share}: must be above 0 and below 1")


class BSARec(SASRec):
    """Sequential recommendation beyond self-attention (Shin et al. 2024), made causal.

    SASRec's network with a moving average beside the attention of every block
    (models/retrieval/moving_average.py says how it differs from the paper). Parameters: SASRec's
    and 4 D a block; cost SASRec's and O(windows x L^2 D) an epoch.
    """

    name: ClassVar[str] = "bsarec"
    config_class = BSARecConfig
    config: BSARecConfig

    def _single(self, weights: Mapping[str, FloatArray]) -> None:
        return None  # which numpy has no filters for

    def _network(self, n_known: int) -> "SASRecNetwork":
        from models.retrieval.sasrec_network import SASRecNetwork

        c = self.config
        return SASRecNetwork(
            n_known,
            c.embedding_size,
            c.layers,
            c.heads,
            c.max_length,
            c.dropout,
            c.initial_std,
            c.filter_share,
        )
