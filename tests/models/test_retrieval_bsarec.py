"""BSARec."""

import pytest
import torch

from contracts.errors import SettingsError
from models.registry import make_retriever
from models.retrieval.moving_average import MovingAverage
from models.retrieval.sasrec_network import SASRecNetwork
from tests.models.conformance import RetrieverConformance
from tests.models.test_retrieval_sasrec import SMALL


class TestBSARec(RetrieverConformance):
    retriever = "bsarec"
    options = {**SMALL, "epochs": 40}
    knows_order = True

    def test_attention_and_average_both_have_a_share(self) -> None:
        for share in (0.0, 1.0):
            with pytest.raises(SettingsError, match="filter_share"):
                make_retriever("bsarec", {"filter_share": share})


def test_the_network_is_causal_and_blind_to_padding() -> None:
    torch.manual_seed(0)
    network = SASRecNetwork(9, 8, 2, 2, 6, 0.5, 0.1, filter_share=0.6).eval()
    with torch.inference_mode():
        rows = torch.tensor([[1, 2, 3, 4]])
        states = network(rows)
        later = network(torch.tensor([[1, 2, 3, 9]]))
        padded = network(torch.tensor([[0, 0, 1, 2, 3, 4]]))
        last = network.last(rows)
    torch.testing.assert_close(states[:, :3], later[:, :3])
    assert not torch.allclose(states[:, 3], later[:, 3])
    torch.testing.assert_close(states, padded[:, 2:])
    torch.testing.assert_close(states[:, -1], last)


def test_a_moving_average_is_what_a_loop_says() -> None:
    torch.manual_seed(1)
    filter = MovingAverage(4)
    torch.nn.init.uniform_(filter.beta)
    x, filled = torch.randn(2, 5, 4), torch.ones(2, 5, dtype=torch.bool)
    filled[0, :2] = False
    decay = torch.sigmoid(filter.decay)
    expected = torch.zeros(2, 5, 4)
    for row in range(2):
        top, bottom = torch.zeros(4), torch.zeros(4)
        for place in range(5):
            seen = filled[row, place].float()
            top, bottom = top * decay + x[row, place] * seen, bottom * decay + seen
            low = top / bottom.clamp(min=1e-6)
            expected[row, place] = filter.norm(low + filter.beta**2 * (x[row, place] - low))
    torch.testing.assert_close(filter(x, filled, 5), expected)
    torch.testing.assert_close(filter(x, filled, 2), expected[:, 3:])
