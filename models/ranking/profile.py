"""A shopper as people read one: the same figures and preferences that the ranker sees."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from contracts.state import STATE_EVENTS, UserState
from models.base import Catalogue, FloatArray
from models.data import ItemIndex
from models.ranking.histories import padded_histories, states_from_one
from models.ranking.item_groups import ItemGroups
from models.ranking.pair_features import OwnItems
from models.ranking.user_features import USER_FEATURES, user_features

PREFIX = "user__"


@dataclass(frozen=True)
class ShopperProfile:
    """What a state says at a moment.

    figures       user features by name, without their prefix; None where unknown
    categories, brands, tags    what the shopper prefers, (name, share of the decayed event weight)
    """

    figures: dict[str, float | None]
    categories: list[tuple[str, float]]
    brands: list[tuple[str, float]]
    tags: list[tuple[str, float]]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "figures": self.figures,
            **{
                name: [{"name": label, "weight": round(weight, 4)} for label, weight in best]
                for name, best in (
                    ("categories", self.categories),
                    ("brands", self.brands),
                    ("tags", self.tags),
                )
            },
        }


def profile_of(
    state: UserState,
    now_us: int,
    catalogue: Catalogue,
    *,
    weights: FloatArray,
    top: int = 5,
) -> ShopperProfile:
    """Derive the profile of a state, at most `top` names of each kind; ties by name. `weights` are
    those of the recipe, by event code.
    """
    index, now = ItemIndex.of(catalogue), np.asarray([now_us], np.int64)
    states = states_from_one(state, index)
    values = user_features(states, now)[0].tolist()
    names = (name.removeprefix(PREFIX) for name in USER_FEATURES)
    own = OwnItems.of(padded_histories(states, now, STATE_EVENTS), weights, len(catalogue))
    groups = ItemGroups.of(catalogue)
    categories, brands, tags = (
        own.affinities(labels).top(0, labels, top)
        for labels in (groups.category, groups.brand, groups.tags)
    )
    figures = {
        name: None if np.isnan(value) else value for name, value in zip(names, values, strict=True)
    }
    return ShopperProfile(figures, categories, brands, tags)
