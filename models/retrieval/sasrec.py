"""SASRec: self-attention over the history, trained to foresee an item of the next basket."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from models.base import FloatArray
from models.retrieval.sasrec_one import OneSASRec
from models.retrieval.sequence import SequenceConfig, SequenceRetriever

if TYPE_CHECKING:
    from models.retrieval.sasrec_network import SASRecNetwork


@dataclass(frozen=True)
class SASRecConfig(SequenceConfig):
    """Options of SASRec."""

    heads: int = 2
    """Attention heads; divides embedding_size."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.heads < 1 or self.embedding_size % self.heads:
            raise ValueError(f"heads = {self.heads}: must be at least 1 and divide embedding_size")


class SASRec(SequenceRetriever):
    """Self-attentive sequential recommendation (Kang and McAuley 2018).

    Differs from the paper: pre-norm; sampled softmax with shared negatives and the log-frequency
    correction (Yi et al. 2019) in place of one negative; positions counted from the newest event;
    and baskets (models/retrieval/sequence.py). Parameters (I + max_length) D + layers (6 D^2). Cost
    per epoch O(windows x L x (layers D^2 + D n_negatives)); scoring O((layers - 1) L D^2 + I D):
    the last block reads the newest place alone.
    """

    name: ClassVar[str] = "sasrec"
    config_class = SASRecConfig
    config: SASRecConfig

    def _single(
        self, weights: Mapping[str, FloatArray]
    ) -> Callable[[FloatArray], FloatArray] | None:
        c = self.config
        return OneSASRec(
            weights, layers=c.layers, heads=c.heads, length=c.max_length, size=c.embedding_size
        )

    def _network(self, n_known: int) -> "SASRecNetwork":
        from models.retrieval.sasrec_network import SASRecNetwork

        c = self.config
        return SASRecNetwork(
            n_known, c.embedding_size, c.layers, c.heads, c.max_length, c.dropout, c.initial_std
        )
