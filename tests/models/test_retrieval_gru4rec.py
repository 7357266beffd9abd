"""GRU4Rec."""

import torch

from models.retrieval.gru4rec import GRU4RecNetwork
from tests.models.conformance import RetrieverConformance
from tests.models.test_retrieval_sasrec import SMALL


class TestGRU4Rec(RetrieverConformance):
    retriever = "gru4rec"
    options = {**SMALL, "epochs": 40}
    knows_order = True


def test_the_network_is_causal_and_blind_to_padding() -> None:
    torch.manual_seed(0)
    network = GRU4RecNetwork(9, 8, layers=2, dropout=0.5, initial_std=0.1).eval()
    with torch.inference_mode():
        states = network(torch.tensor([[1, 2, 3, 4]]))
        later = network(torch.tensor([[1, 2, 3, 9]]))
        padded = network(torch.tensor([[0, 0, 1, 2, 3, 4]]))
    torch.testing.assert_close(states[:, :3], later[:, :3])
    assert not torch.allclose(states[:, 3], later[:, 3])
    torch.testing.assert_close(states, padded[:, 2:])
