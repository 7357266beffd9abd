"""NextItNet."""

import pytest
import torch

from contracts.errors import SettingsError
from models.registry import make_retriever
from models.retrieval.nextitnet import NextItNetNetwork
from tests.models.conformance import RetrieverConformance
from tests.models.test_retrieval_sasrec import SMALL


class TestNextItNet(RetrieverConformance):
    retriever = "nextitnet"
    options = {**SMALL, "epochs": 40}
    knows_order = True

    def test_a_kernel_reads_more_than_its_own_place(self) -> None:
        with pytest.raises(SettingsError, match="kernel_size = 1"):
            make_retriever("nextitnet", {"kernel_size": 1})


def test_the_network_is_causal_and_blind_to_padding() -> None:
    torch.manual_seed(0)
    network = NextItNetNetwork(9, 8, 2, kernel_size=3, dropout=0.5, initial_std=0.1).eval()
    with torch.inference_mode():
        states = network(torch.tensor([[1, 2, 3, 4]]))
        later = network(torch.tensor([[1, 2, 3, 9]]))
        padded = network(torch.tensor([[0, 0, 1, 2, 3, 4]]))
    torch.testing.assert_close(states[:, :3], later[:, :3])
    assert not torch.allclose(states[:, 3], later[:, 3])
    torch.testing.assert_close(states, padded[:, 2:])
