"""An embedding table that is summed with what kind of thing an item is."""

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from contracts.events import EVENT_TYPES, PURCHASE
from contracts.state import MICROS_PER_DAY
from models.base import Catalogue, Histories, TrainingData
from models.retrieval.sasrec import SASRec, SASRecConfig
from models.retrieval.side_information import add_side_information, fold

N_ITEMS = 40
WEIGHTS = np.zeros(len(EVENT_TYPES), np.float32)
WEIGHTS[PURCHASE] = 1.0


def catalogue(tags: list[tuple[str, ...]]) -> Catalogue:
    n = len(tags)
    blank = ("",) * n
    return Catalogue(
        item_ids=tuple(f"i{at}" for at in range(n)),
        titles=blank,
        descriptions=blank,
        categories=blank,
        brands=blank,
        tags=tuple(tags),
        prices=np.full(n, np.nan, np.float32),
    )


def test_a_row_is_its_own_and_the_mean_of_its_attributes() -> None:
    table = nn.Embedding(4, 8, padding_idx=0)
    own = table.weight.detach().clone()
    described = catalogue([("a", "b"), ("b",), ("a", "alone")])
    assert add_side_information(table, described, np.array([0, 1, 2], np.int32))
    kinds = table.parametrizations["weight"][0].attributes.weight.detach()
    assert kinds.shape == (2, 8)  # what a single item has is not among them
    expected = own + torch.stack([kinds[0] * 0, kinds.mean(0), kinds[1], kinds[0]])
    torch.testing.assert_close(table.weight, expected)
    before = table.weight.detach().clone()
    fold(table)
    assert isinstance(table.weight, nn.Parameter) and not hasattr(table, "parametrizations")
    assert torch.equal(table.weight, before) and not before[0].any()


def test_without_shared_attributes_the_table_stays_plain() -> None:
    for tags in ([(), ()], [("a",), ("b",)]):
        table = nn.Embedding(3, 4, padding_idx=0)
        assert not add_side_information(table, catalogue(tags), np.array([0, 1], np.int32))
        assert "weight" in dict(table.named_parameters())


def test_an_item_seen_once_is_found_by_its_kind() -> None:
    """Shoppers stay with one of four kinds; each item of a kind is as good as the next."""
    rng = np.random.default_rng(5)
    kind_of = np.arange(N_ITEMS) % 4
    users, items = [], []
    for user in range(160):
        own = np.flatnonzero(kind_of == user % 4)
        users += [user] * 5
        items += rng.choice(own[:5], 5, replace=False).tolist()  # five of ten are common
    for item in range(20, N_ITEMS):  # the others were bought once each, after two of another kind
        users += [200 + item] * 3
        items += [*rng.choice(np.flatnonzero(kind_of[:20] != item % 4), 2, replace=False), item]
    order = np.arange(len(users))
    data = TrainingData(
        users=np.array(users, np.int32),
        items=np.array(items, np.int32),
        event_types=np.full(len(users), PURCHASE, np.int8),
        times=order * MICROS_PER_DAY,
        n_users=max(users) + 1,
        catalogue=catalogue([(f"kind-{kind}",) for kind in kind_of]),
        now=len(users) * MICROS_PER_DAY,
    )
    config = SASRecConfig(
        embedding_size=16, epochs=12, batch_size=32, dropout=0.1, cold_start=False
    )
    histories = Histories(
        items=np.array([[0, 4], [1, 5], [2, 6], [3, 7]], np.int32),
        event_types=np.full((4, 2), PURCHASE, np.int8),
        ages_days=np.array([[2.0, 1.0]] * 4, np.float32),
    )

    def own_kind_ahead(side_information: bool) -> float:
        model = SASRec(replace(config, side_information=side_information))
        model.fit(data, event_weights=WEIGHTS, seed=1)
        rare = model.score_all(histories)[:, 20:]
        mine = kind_of[None, 20:] == np.arange(4)[:, None]
        others = np.where(mine, np.nan, rare)
        return float(np.mean(rare[mine].reshape(4, -1).mean(1) > np.nanmax(others, axis=1)))

    assert own_kind_ahead(True) == 1.0
    assert own_kind_ahead(False) < 1.0
