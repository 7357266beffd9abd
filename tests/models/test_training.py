"""The torch loop and the choice of device."""

import logging

import pytest
import torch
from torch import Tensor, nn

from contracts.errors import SettingsError
from models.device import _announce, choose_device
from models.training import DivergedError, LoopOptions, train

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
