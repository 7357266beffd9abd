"""The base of retrievers whose weights torch learns in epochs: one way to the loop, for all."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

from numpy.random import Generator, default_rng

from models.base import TrainingData
from models.retrieval.dense import DenseRetriever

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from models.training import Batches, TrainingReport

Batch = TypeVar("Batch")
BatchIn_contra = TypeVar("BatchIn_contra", contravariant=True)


class DrawingLoss(Protocol[BatchIn_contra]):
    """The scalar mean loss of a batch, which draws its negatives from `rng`."""

    rng: Generator

    def __call__(self, batch: BatchIn_contra, /) -> "Tensor":
        """Return the loss, with a gradient where one is recorded."""
        ...


class LoopConfig(Protocol):
    """What the options of a model say of its training."""

    @property
    def epochs(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def threads(self) -> int: ...
    @property
    def patience(self) -> int: ...


class TrainedRetriever(DenseRetriever):
    """A retriever that fits a network by `models.training.train`; `run` says how it is carried out.

    A subclass calls `_train` in its `_fit`.
    """

    config_class: ClassVar[type[Any]]
    report: "TrainingReport | None" = None
    """What training did; None for a loaded model."""

    @property
    def stops_early(self) -> bool:
        """Whether this fit is to hold out a share and stop when its loss no longer falls."""
        return self.config.patience > 0 and self.run.epochs is None

    def _train(
        self,
        data: TrainingData,
        seed: int,
        network: "nn.Module",
        batches: "Callable[[int], Batches[Batch]]",
        loss: DrawingLoss[Batch],
        *,
        device: "torch.device",
        held: "Batches[Batch]" = (),
        held_loss: DrawingLoss[Batch] | None = None,
    ) -> None:
        """Train `network`; `held` are batches held out for early stopping, `held_loss` theirs."""
        # Whoever only serves a release loads no torch.
        from models.checkpoints import fingerprint
        from models.training import LoopOptions, train

        options: LoopConfig = self.config
        self.report = train(
            self.name,
            network,
            batches,
            loss,
            LoopOptions(
                epochs=options.epochs,
                learning_rate=options.learning_rate,
                weight_decay=options.weight_decay,
                seed=seed,
                threads=options.threads,
                patience=options.patience,
            ),
            device=device,
            run=self.run,
            rng=loss.rng,
            held_out=_mean_loss(held, held_loss, seed) if held and held_loss else None,
            fingerprint=lambda: fingerprint(
                self.name,
                self.config,
                data,
                self.event_weights,
                seed=seed,
                stop_after=self.run.epochs,
                device=device.type,
            ),
        )


def _mean_loss(
    batches: "Batches[Batch]", loss: DrawingLoss[Batch], seed: int
) -> Callable[[], float]:
    """Return what gives the mean loss over held-out batches, with the same draws each time."""

    def mean() -> float:
        loss.rng = default_rng([seed, 3])
        return sum(float(loss(batch)) for batch in batches) / len(batches)

    return mean
