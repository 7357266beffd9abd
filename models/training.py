"""The one torch loop: AdamW, warm-up and cosine decay, clipped gradients, early stopping.

Deterministic: the same seed, batches and number of threads give the same bits on the CPU, also when
the training was killed and went on from a checkpoint. Torch's global random state is put back
afterwards. bfloat16 is used on CUDA alone (on a CPU it is slower and not needed).
"""

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from contracts.errors import AmalgamError, CorruptError
from models.checkpoints import Checkpoint
from models.training_run import EpochDone, TrainingRun

Batch = TypeVar("Batch")
Batch_co = TypeVar("Batch_co", covariant=True)

CPU = torch.device("cpu")
_WARM_UP = 0.05
_CLIP_NORM = 5.0
_log = logging.getLogger(__name__)


class DivergedError(AmalgamError):
    """Training gave a loss that is not a number; the model was not kept."""

    code = "diverged"


class Batches(Protocol[Batch_co]):
    """The batches of an epoch; they may be made one by one, as they are asked for."""

    def __len__(self) -> int:
        """Return how many there are."""
        ...

    def __iter__(self) -> Iterator[Batch_co]:
        """Give them in order."""
        ...


@dataclass(frozen=True)
class LoopOptions:
    """How long and how fast."""

    epochs: int
    learning_rate: float
    weight_decay: float
    seed: int
    threads: int = 0
    """Threads of torch while training; 0 leaves torch's own setting."""
    patience: int = 0
    """Epochs without a lower held-out loss after which training stops; 0: never."""


@dataclass(frozen=True)
class TrainingReport:
    """What a training run did, the part before a resumption included."""

    losses: tuple[float, ...]
    """Mean loss of each epoch."""
    steps: int
    seconds: float
    """Wall seconds of this process; what came before a resumption is not counted."""
    held_losses: tuple[float, ...] = ()
    """Held-out loss after each epoch; empty without early stopping."""
    epochs: int = 0
    """Epochs whose weights were kept: those of the lowest held-out loss, or all."""


@dataclass
class _State:
    """Where a training is; what a checkpoint holds besides tensors."""

    total_steps: int = 0
    steps: int = 0
    losses: list[float] = field(default_factory=list)
    held_losses: list[float] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)
    """Weights at the lowest held-out loss; empty without early stopping."""

    @property
    def best_epoch(self) -> int:
        """Epochs done at the lowest held-out loss, the first of equals; all without any."""
        if not self.held_losses:
            return len(self.losses)
        return self.held_losses.index(min(self.held_losses)) + 1


def train(
    name: str,
    network: nn.Module,
    batches: Callable[[int], Batches[Batch]],
    loss_of: Callable[[Batch], Tensor],
    options: LoopOptions,
    *,
    device: torch.device,
    run: TrainingRun | None = None,
    rng: np.random.Generator | None = None,
    held_out: Callable[[], float] | None = None,
    fingerprint: Callable[[], str] | None = None,
) -> TrainingReport:
    """Train `network`, in place and on `device`, and leave it there in eval mode.

    batches(epoch)  the batches of an epoch; the first epoch's count sets the schedule
    loss_of(batch)  the scalar mean loss of a batch; called in training mode
    run             progress, checkpoints, and after how many epochs to stop
    rng             what `batches` and `loss_of` draw from: it is kept in checkpoints
    held_out()      the loss on data held out, called in eval mode after each epoch; with a
                    `patience` the weights of its lowest value are kept, and training stops early
    fingerprint()   names the training among checkpoints; needed with `run.checkpoints`

    Raises DivergedError, naming the model and the epoch, when a loss or a weight is not finite:
    nothing that is not finite is written to a checkpoint. No batches: no training.
    """
    run = run or TrainingRun()
    started = time.perf_counter()
    with scoped(options.seed, options.threads, device):
        network.to(device).train()
        loop = _Loop(
            name, network, options, device, run, rng, held_out if options.patience else None
        )
        state = loop.resumed(fingerprint)
        while not loop.done(state):
            parts = batches(len(state.losses))
            if not len(parts):
                break
            loop.epoch(state, parts, loss_of)
        if state.best:
            network.load_state_dict(state.best)
        network.eval()
    return TrainingReport(
        tuple(state.losses),
        state.steps,
        time.perf_counter() - started,
        tuple(state.held_losses),
        state.best_epoch,
    )


class _Loop:
    """One training: its optimizer, and what follows each epoch."""

    def __init__(
        self,
        name: str,
        network: nn.Module,
        options: LoopOptions,
        device: torch.device,
        run: TrainingRun,
        rng: np.random.Generator | None,
        held_out: Callable[[], float] | None,
    ) -> None:
        self.name, self.network, self.options, self.device = name, network, options, device
        self.run, self.rng, self.held_out = run, rng, held_out
        self.epochs = min(options.epochs, run.epochs or options.epochs)
        self.checkpoint: Checkpoint | None = None
        self.started, self.before = time.perf_counter(), 0
        self.optimizer = self._new_optimizer()

    def _new_optimizer(self) -> torch.optim.AdamW:
        return torch.optim.AdamW(
            self.network.parameters(),
            lr=self.options.learning_rate,
            weight_decay=self.options.weight_decay,
            fused=True,
        )

    def resumed(self, fingerprint: Callable[[], str] | None) -> _State:
        """Return where the training stands: at the start, or where a checkpoint left it."""
        if self.run.checkpoints is None or fingerprint is None:
            return _State()
        self.checkpoint = Checkpoint(self.run.checkpoints, self.name, fingerprint(), self.device)
        if not self.checkpoint.path.is_file():
            return _State()
        weights = {key: value.clone() for key, value in self.network.state_dict().items()}
        try:
            state = self._loaded(self.checkpoint)
        except CorruptError as error:
            # A damaged file costs what was trained so far, not the model.
            _log.warning("%s; it is deleted, and %s trains from the start", error, self.name)
            self.checkpoint.path.unlink(missing_ok=True)
            self.network.load_state_dict(weights)
            self.optimizer = self._new_optimizer()
            torch.manual_seed(self.options.seed)
            return _State()
        self.before = len(state.losses)
        _log.info("%s goes on from its checkpoint after epoch %d", self.name, self.before)
        return state

    def _loaded(self, checkpoint: Checkpoint) -> _State:
        found = checkpoint.load(self.network, self.optimizer)
        if found is None:
            return _State()
        facts, best = found
        try:
            rng = facts.pop("rng", None)
            state = _State(**facts, best=best)
            if self.rng is not None:
                self.rng.bit_generator.state = rng
        except (TypeError, ValueError, KeyError) as error:
            raise CorruptError(f"{checkpoint.path}: cannot be resumed from ({error})") from error
        return state

    def done(self, state: _State) -> bool:
        """Say whether all epochs are over, or the held-out loss has not fallen for `patience`."""
        waited = len(state.held_losses) - state.best_epoch if state.held_losses else 0
        return len(state.losses) >= self.epochs or bool(
            state.held_losses and waited >= self.options.patience
        )

    def epoch(
        self, state: _State, parts: Batches[Batch], loss_of: Callable[[Batch], Tensor]
    ) -> None:
        """Take one step a batch; judge, tell and keep what came of it."""
        total = torch.zeros((), device=self.device)
        state.total_steps = state.total_steps or self.options.epochs * len(parts)
        for batch in parts:
            rate = self.options.learning_rate * _rate_factor(state.steps, state.total_steps)
            total += self._step(batch, loss_of, rate)
            state.steps += 1
        loss = float(total) / len(parts)
        self._require_finite(loss, len(state.losses) + 1)
        state.losses.append(loss)
        if self.held_out is not None:
            self._judge(state)
        self._tell(state)
        if self.checkpoint is not None:
            self.checkpoint.save(self.network, self.optimizer, state.best, self._facts(state))

    def _step(self, batch: Batch, loss_of: Callable[[Batch], Tensor], rate: float) -> Tensor:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        with autocast(self.device):
            loss = loss_of(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), _CLIP_NORM)
        self.optimizer.step()
        return loss.detach()

    def _require_finite(self, loss: float, epoch: int) -> None:
        remedy = f"nothing was saved. Lower learning_rate (now {self.options.learning_rate})"
        if not math.isfinite(loss):
            raise DivergedError(f"{self.name}: the loss of epoch {epoch} is {loss}; {remedy}")
        if not all(bool(torch.isfinite(value).all()) for value in self.network.parameters()):
            raise DivergedError(f"{self.name}: a weight of epoch {epoch} is not finite; {remedy}")

    def _judge(self, state: _State) -> None:
        assert self.held_out is not None
        self.network.eval()
        with torch.inference_mode(), autocast(self.device):
            held = self.held_out()
        self.network.train()
        self._require_finite(held, len(state.losses))
        state.held_losses.append(held)
        if state.best_epoch == len(state.losses):
            found = self.network.state_dict()
            state.best = {key: value.detach().clone() for key, value in found.items()}

    def _tell(self, state: _State) -> None:
        done = len(state.losses)
        pace = (time.perf_counter() - self.started) / (done - self.before)
        held = state.held_losses[-1] if state.held_losses else None
        told = EpochDone(
            self.name, done, self.epochs, state.losses[-1], held, pace * (self.epochs - done)
        )
        _log.info("%s", told)
        if self.run.progress is not None:
            self.run.progress(told)

    def _facts(self, state: _State) -> dict[str, Any]:
        facts: dict[str, Any] = {
            "total_steps": state.total_steps,
            "steps": state.steps,
            "losses": state.losses,
            "held_losses": state.held_losses,
        }
        return facts if self.rng is None else {**facts, "rng": self.rng.bit_generator.state}


def _rate_factor(step: int, steps: int) -> float:
    """Rise linearly over the first 5 % of the steps, then fall along a cosine to a twentieth."""
    warm = max(1, round(steps * _WARM_UP))
    if step < warm:
        return (step + 1) / warm
    done = min(1.0, (step - warm) / max(1, steps - warm))
    return 0.05 + 0.95 * (1 + math.cos(math.pi * done)) / 2


def autocast(device: torch.device) -> torch.autocast:
    """Return the context of mixed precision: bfloat16 products on CUDA, nothing on the CPU."""
    return torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda")


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
