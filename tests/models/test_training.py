"""The torch loop and the choice of device."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from contracts.errors import SettingsError
from models import checkpoints
from models.checkpoints import fingerprint
from models.device import _announce, choose_device
from models.training import DivergedError, LoopOptions, TrainingReport, train
from models.training_run import EpochDone, TrainingRun
from tests.models.conformance import WEIGHTS, checkerboard

CPU = torch.device("cpu")


class Line(nn.Module):
    """y = a x + b, with a dropout that draws random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(2))
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.weights[0] * self.dropout(x) + self.weights[1]
        return result


def options(**changed: float) -> LoopOptions:
    return LoopOptions(**{  # type: ignore[arg-type]
        "epochs": 30,
        "learning_rate": 0.1,
        "weight_decay": 0.0,
        "seed": 1,
        **changed,
    })


def run(seed: int = 1, factor: float = 1.0, **changed: float) -> tuple[Line, list[float]]:
    network = Line()
    x = torch.linspace(-1, 1, 20)
    report = train(
        "line",
        network,
        lambda epoch: [x, -x],
        lambda batch: factor * ((network(batch) - 2 * batch - 1) ** 2).mean(),
        options(seed=seed, **changed),
        device=CPU,
    )
    assert report.steps == 2 * len(report.losses)
    return network, list(report.losses)


def test_learns_a_line_and_ends_in_eval_mode() -> None:
    network, losses = run()
    assert losses[-1] < losses[0] / 10
    assert not network.training
    torch.testing.assert_close(network.weights.detach(), torch.tensor([2.0, 1.0]), atol=0.3, rtol=0)


def test_same_seed_same_bits_whatever_came_before() -> None:
    one, losses = run()
    torch.rand(7)
    again, same = run()
    other, different = run(seed=2)
    assert torch.equal(one.weights, again.weights)
    assert losses == same
    assert losses != different


def test_torch_is_left_as_it_was() -> None:
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    run(threads=threads + 1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_a_loss_that_is_no_number_stops_and_names_the_model() -> None:
    with pytest.raises(DivergedError, match=r"line: the loss of epoch 1 is nan"):
        run(factor=float("nan"))


def test_no_batches_is_no_training() -> None:
    network = Line()
    report = train("line", network, lambda epoch: [], lambda b: b, options(), device=CPU)
    assert (report.losses, report.steps) == ((), 0)


# -- early stopping


def held_out_run(
    values: list[float], patience: int, **changed: int
) -> tuple[Line, TrainingReport, list[Tensor]]:
    """Train on what never ends to improve, while the held-out loss goes as `values` say."""
    network, seen = Line(), []

    def held() -> float:
        assert not network.training
        seen.append(network.weights.detach().clone())
        return values[len(seen) - 1]

    report = train(
        "line",
        network,
        lambda epoch: [torch.linspace(-1, 1, 20)],
        lambda x: ((network(x) - 2 * x - 1) ** 2).mean(),
        options(patience=patience, epochs=6, **changed),
        device=CPU,
        held_out=held,
    )
    return network, report, seen


def test_stops_when_the_held_out_loss_no_longer_falls_and_keeps_its_best_weights() -> None:
    network, report, seen = held_out_run([5.0, 3.0, 4.0, 3.5, 1.0, 1.0], patience=2)
    assert report.held_losses == (5.0, 3.0, 4.0, 3.5)
    assert report.epochs == 2
    assert torch.equal(network.weights.detach(), seen[1])
    assert not torch.equal(seen[1], seen[3])


def test_a_held_out_loss_that_falls_to_the_end_stops_nothing() -> None:
    network, report, seen = held_out_run([6.0, 5.0, 4.0, 3.0, 2.0, 1.0], patience=1)
    assert report.epochs == len(report.losses) == 6
    assert torch.equal(network.weights.detach(), seen[-1])


def test_no_patience_is_no_early_stopping() -> None:
    _, report, seen = held_out_run([], patience=0)
    assert (report.held_losses, report.epochs, seen) == ((), 6, [])


def test_a_held_out_loss_that_is_no_number_stops() -> None:
    with pytest.raises(DivergedError, match="epoch 2"):
        held_out_run([1.0, float("nan")], patience=3)


def test_a_refit_walks_the_same_schedule_and_stops_at_the_count_found() -> None:
    network, _, seen = held_out_run([5.0, 3.0, 4.0, 3.5, 1.0, 1.0], patience=2)
    again = Line()
    report = train(
        "line",
        again,
        lambda epoch: [torch.linspace(-1, 1, 20)],
        lambda x: ((again(x) - 2 * x - 1) ** 2).mean(),
        options(patience=2, epochs=6),
        device=CPU,
        run=TrainingRun(epochs=2),
    )
    assert (len(report.losses), report.epochs) == (2, 2)
    assert torch.equal(again.weights.detach(), seen[1])


# -- checkpoints


class Killed(Exception):
    """Stands for the end of the process."""


def checkpointed(
    folder: Path, *, die_after: int = 0, mark: str = "a" * 64, values: list[float] | None = None
) -> tuple[Line, TrainingReport, list[EpochDone]]:
    """Train with draws from a generator of its own; raise in the progress of epoch `die_after`."""
    network, rng, told = Line(), np.random.default_rng(3), []

    def progress(done: EpochDone) -> None:
        told.append(done)
        if done.epoch == die_after + 1 > 1:
            raise Killed

    def batches(epoch: int) -> list[Tensor]:
        return [torch.from_numpy(rng.normal(size=20).astype(np.float32)) for _ in range(3)]

    held: Callable[[], float] | None = None
    if values is not None:
        held = lambda: values[len(told)]  # noqa: E731
    report = train(
        "line",
        network,
        batches,
        lambda x: ((network(x) - 2 * x - 1) ** 2).mean(),
        options(epochs=6, patience=2 if held else 0),
        device=CPU,
        run=TrainingRun(progress=progress, checkpoints=folder),
        rng=rng,
        held_out=held,
        fingerprint=lambda: mark,
    )
    return network, report, told


def test_a_resumed_training_ends_with_the_same_bits(tmp_path: Path) -> None:
    whole, report, _ = checkpointed(tmp_path / "whole")
    with pytest.raises(Killed):
        checkpointed(tmp_path / "cut", die_after=3)
    resumed, same, told = checkpointed(tmp_path / "cut")
    assert [done.epoch for done in told] == [4, 5, 6]
    assert torch.equal(resumed.weights, whole.weights)
    assert same.losses == report.losses
    assert same.steps == report.steps == 18


def test_a_checkpoint_of_the_end_trains_nothing_more(tmp_path: Path) -> None:
    whole, _, _ = checkpointed(tmp_path)
    again, report, told = checkpointed(tmp_path)
    assert told == []
    assert torch.equal(again.weights, whole.weights)
    assert len(report.losses) == 6


def test_the_best_weights_so_far_survive(tmp_path: Path) -> None:
    values = [1.0, 2.0, 3.0]
    whole, report, _ = checkpointed(tmp_path / "whole", values=values)
    assert report.epochs == 1
    with pytest.raises(Killed):
        checkpointed(tmp_path / "cut", die_after=1, values=values)
    resumed, same, _ = checkpointed(tmp_path / "cut", values=values[1:])
    assert torch.equal(resumed.weights, whole.weights)
    assert same.held_losses == report.held_losses


def test_another_training_does_not_go_on_from_it(tmp_path: Path) -> None:
    checkpointed(tmp_path)
    _, _, told = checkpointed(tmp_path, mark="b" * 64)
    assert len(told) == 6


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:40])


def _without_luck(path: Path) -> None:
    """Weights and optimizer can be put back, the random state cannot."""
    with safe_open(path, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys() if key != "random.cpu"}
        path.write_bytes(save(tensors, metadata=file.metadata()))


def _of_another_code(path: Path) -> None:
    with safe_open(path, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}
    path.write_bytes(save(tensors, metadata={"training_state": '{"rows": 3}'}))


@pytest.mark.parametrize("damage", [_cut, _without_luck, _of_another_code])
def test_a_damaged_checkpoint_costs_the_epochs_so_far_and_no_more(
    tmp_path: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    whole, report, _ = checkpointed(tmp_path / "whole")
    with pytest.raises(Killed):
        checkpointed(tmp_path / "cut", die_after=3)
    (found,) = (tmp_path / "cut").glob("line-*.safetensors")
    damage(found)
    network, same, told = checkpointed(tmp_path / "cut")
    assert [done.epoch for done in told] == [1, 2, 3, 4, 5, 6]
    assert torch.equal(network.weights, whole.weights)
    assert same.losses == report.losses
    (said,) = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert found.name in said.getMessage() and "from the start" in said.getMessage()


def test_a_checkpoint_of_another_format_is_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def mark() -> str:
        return fingerprint("line", options(), checkerboard(), WEIGHTS, seed=1)

    now = mark()
    monkeypatch.setattr(checkpoints, "_FORMAT", checkpoints._FORMAT + 1)
    assert mark() != now


def test_what_is_no_number_is_in_no_checkpoint(tmp_path: Path) -> None:
    network = Line()

    def loss(batch: Tensor) -> Tensor:  # finite, with a gradient that is not
        return (
            network.weights[:1] - network.weights[:1].detach()
        ).abs().sqrt().mean() + batch.sum()

    with pytest.raises(DivergedError, match=r"line: a weight of epoch 1 is not finite"):
        train(
            "line",
            network,
            lambda epoch: [torch.zeros(2)],
            loss,
            options(),
            device=CPU,
            run=TrainingRun(checkpoints=tmp_path),
            fingerprint=lambda: "c" * 64,
        )
    assert not list(tmp_path.iterdir())


def test_device_is_chosen_in_one_place(caplog: pytest.LogCaptureFixture) -> None:
    _announce.cache_clear()
    with caplog.at_level(logging.INFO, logger="models.device"):
        assert choose_device("cpu").type == choose_device("cpu").type == "cpu"
    assert [record.getMessage()[:10] for record in caplog.records] == ["device cpu"]
    with pytest.raises(SettingsError, match="tpu"):
        choose_device("tpu")  # type: ignore[arg-type]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_is_refused() -> None:
    with pytest.raises(SettingsError, match="no GPU"):
        choose_device("cuda")
    assert choose_device("auto").type == "cpu"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_learns_on_cuda_too() -> None:
    network, x = Line(), torch.linspace(-1, 1, 20, device="cuda")
    report = train(
        "line",
        network,
        lambda epoch: [x],
        lambda batch: ((network(batch) - 2 * batch - 1) ** 2).mean(),
        options(),
        device=choose_device("cuda"),
    )
    assert report.losses[-1] < report.losses[0] / 10
