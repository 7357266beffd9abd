"""NeuMF."""

from tests.models.conformance import RetrieverConformance
from tests.models.test_retrieval_two_tower import SMALL


class TestNeuMF(RetrieverConformance):
    retriever = "neumf"
    options = {**SMALL, "hidden_size": 16}
    knows_order = True
