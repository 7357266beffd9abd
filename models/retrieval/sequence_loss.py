"""The loss of the sequence models: softmax over the items, full or sampled."""

from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import parametrize

from models.base import PAD
from models.retrieval.sequence_windows import WindowBatch


class SampledSoftmax:
    """Mean cross-entropy of each place's target against negatives shared by the batch.

    A logit is lowered by log(expected draws of its item) (Yi et al. 2019), so that the plain dot
    product estimates the full softmax's logit. A negative that is a place's own target does not
    count for it. With no more items than `n_negatives` the softmax is full.
    """

    def __init__(
        self,
        network: nn.Module,
        frequency: NDArray[np.int64],
        *,
        n_negatives: int,
        negative_power: float,
        weighted: bool,
        device: torch.device,
        rng: np.random.Generator,
    ) -> None:
        self.network, self.device, self.rng = network, device, rng
        self.n_negatives, self.weighted = n_negatives, weighted
        share = frequency.astype(np.float64) ** negative_power
        self.cumulative = np.cumsum(share / share.sum()) if len(share) else share
        self.full = len(frequency) <= n_negatives
        draws = n_negatives * share / max(share.sum(), 1e-12)
        self.log_draws = torch.from_numpy(np.log(draws).astype(np.float32)).to(device)

    def __call__(self, batch: WindowBatch) -> Tensor:
        """Return the scalar mean loss of a batch's places that have a target."""
        with parametrize.cached():  # the table may be a sum: once a step is enough
            return self._mean(batch)

    def _mean(self, batch: WindowBatch) -> Tensor:
        table = cast(nn.Embedding, self.network.get_submodule("items")).weight
        rows = torch.from_numpy(batch.items.astype(np.int64) + 1).to(self.device)
        place = np.nonzero(batch.targets != PAD)
        targets = torch.from_numpy(batch.targets[place].astype(np.int64)).to(self.device)  # (M,)
        if not len(targets):
            return table.sum() * 0
        at = torch.from_numpy(np.ravel_multi_index(place, batch.items.shape)).to(self.device)
        states = self.network(rows).flatten(0, 1).index_select(0, at)  # (M, D)
        loss = _full if self.full else self._sampled
        each = loss(states, targets, table)
        if not self.weighted:
            return each.mean()
        weights = torch.from_numpy(batch.strength[place]).to(self.device)
        return (each * weights).sum() / weights.sum()

    def _sampled(self, states: Tensor, targets: Tensor, table: Tensor) -> Tensor:
        negatives = self._draw().to(self.device)  # (S,)
        # F.embedding, not indexing: its gradient is summed in a fixed order on several threads.
        own = (states * F.embedding(targets + 1, table)).sum(1) - self.log_draws[targets]
        others = states @ F.embedding(negatives + 1, table).T - self.log_draws[negatives]  # (M, S)
        others = others.float().masked_fill(targets[:, None] == negatives, -torch.inf)
        logits = torch.cat((own.float()[:, None], others), 1)  # (M, 1 + S), the target first
        return F.cross_entropy(logits, torch.zeros_like(targets), reduction="none")

    def _draw(self) -> Tensor:
        places = self.rng.random(self.n_negatives)
        drawn = np.searchsorted(self.cumulative, places, side="right").astype(np.int64)
        return torch.from_numpy(np.minimum(drawn, len(self.cumulative) - 1))


def _full(states: Tensor, targets: Tensor, table: Tensor) -> Tensor:
    logits = states @ table[1:].T  # (M, D) x (D, K) -> (M, K)
    return F.cross_entropy(logits.float(), targets, reduction="none")
