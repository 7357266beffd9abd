"""The one torch loop: AdamW, warm-up and cosine decay, clipped gradients, a fixed number of epochs.

Deterministic: the same seed, batches and number of threads give the same bits on the CPU. Torch's
global random state is put back afterwards. bfloat16 is used on CUDA alone (on a CPU it is slower
and not needed).
"""

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from contracts.errors import AmalgamError

Batch = TypeVar("Batch")
Progress = Callable[[str, int, int, float], None]
"""(model name, epochs done, epochs in all, mean loss of the epoch)."""

_WARM_UP = 0.05
_CLIP_NORM = 5.0
_log = logging.getLogger(__name__)


class DivergedError(AmalgamError):
    """Training gave a loss that is not a number; the model was not kept."""

    code = "diverged"


@dataclass(frozen=True)
class LoopOptions:
    """How long and how fast."""

    epochs: int
    learning_rate: float
    weight_decay: float
    seed: int
    threads: int = 0
    """Threads of torch while training; 0 leaves torch's own setting."""


@dataclass(frozen=True)
class TrainingReport:
    """What a training run did."""

    losses: tuple[float, ...]
    """Mean loss of each epoch."""
    steps: int
    seconds: float


def train(
    name: str,
    network: nn.Module,
    batches: Callable[[int], Sequence[Batch]],
    loss_of: Callable[[Batch], Tensor],
    options: LoopOptions,
    *,
    device: torch.device,
    progress: Progress | None = None,
) -> TrainingReport:
    """Train `network`, in place and on `device`, and leave it there in eval mode.

    batches(epoch)  the batches of an epoch; the first epoch's count sets the schedule
    loss_of(batch)  the scalar mean loss of a batch; called in training mode

    Raises DivergedError, naming the model and the epoch, when a loss is not finite. No batches: no
    training.
    """
    started = time.perf_counter()
    losses: list[float] = []
    steps = 0
    with scoped(options.seed, options.threads, device):
        network.to(device).train()
        optimizer = torch.optim.AdamW(
            network.parameters(),
            lr=options.learning_rate,
            weight_decay=options.weight_decay,
            fused=True,
        )
        schedule = None
        for epoch in range(options.epochs):
            parts = batches(epoch)
            if not len(parts):
                break
            if schedule is None:
                schedule = _schedule(optimizer, options.epochs * len(parts))
            loss = _epoch(network, parts, loss_of, optimizer, schedule, device)
            steps += len(parts)
            if not math.isfinite(loss):
                raise DivergedError(
                    f"{name}: the loss of epoch {epoch + 1} is {loss}; nothing was saved. Lower "
                    f"learning_rate (now {options.learning_rate})"
                )
            losses.append(loss)
            _log.info("%s epoch %d/%d loss %.4f", name, epoch + 1, options.epochs, loss)
            if progress is not None:
                progress(name, epoch + 1, options.epochs, loss)
        network.eval()
        if not all(bool(torch.isfinite(value).all()) for value in network.parameters()):
            raise DivergedError(f"{name}: a weight is not finite; nothing was saved")
    return TrainingReport(tuple(losses), steps, time.perf_counter() - started)


def _epoch(
    network: nn.Module,
    parts: Sequence[Batch],
    loss_of: Callable[[Batch], Tensor],
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    device: torch.device,
) -> float:
    """Take one step a batch; return the mean loss (NaN as soon as one is)."""
    total = torch.zeros((), device=device)
    for batch in parts:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda"):
            loss = loss_of(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), _CLIP_NORM)
        optimizer.step()
        schedule.step()
        total += loss.detach()
    return float(total) / len(parts)


def _schedule(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    """Rise linearly over the first 5 % of the steps, then fall along a cosine to a twentieth."""
    warm = max(1, round(steps * _WARM_UP))

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        done = min(1.0, (step - warm) / max(1, steps - warm))
        return 0.05 + 0.95 * (1 + math.cos(math.pi * done)) / 2

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


@contextmanager
def scoped(seed: int, threads: int, device: torch.device) -> Iterator[None]:
    """Seed torch and set its threads inside the block; put both back after it."""
    before = torch.get_num_threads()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        if threads:
            torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)
