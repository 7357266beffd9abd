"""What `amalgam tune` searches: for each model, which options within which ranges.

A key is an option of the model's config, with a dot before an option of a nested one. A range that
does not hold the present value is widened to it, so that the present settings can be a trial.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from contracts.errors import BadInputError
from models.ranking.config import RecipeConfig
from models.registry import make_retriever

Value = float | int | str
Params = Mapping[str, Value]
"""Option -> value: what a trial tries."""
RANKER: Final = "ranker"
EVENT_WEIGHTS: Final = "event_weights"
ANCHOR: Final = "purchase"
"""Only the proportions of event weights matter, so this one stays as it is."""
_DIGITS: Final = 4


@dataclass(frozen=True)
class Real:
    """A number in [low, high]; drawn evenly, or evenly in its logarithm."""

    low: float
    high: float
    log: bool = False

    def widened(self, present: Value) -> "Real":
        """Return the range with `present` in it; one that reaches 0 or below is not logarithmic."""
        value = float(present)
        return Real(min(self.low, value), max(self.high, value), self.log and value > 0)


@dataclass(frozen=True)
class Whole:
    """A whole number in [low, high], 1 or more where logarithmic."""

    low: int
    high: int
    log: bool = False

    def widened(self, present: Value) -> "Whole":
        """Return the range with `present` in it."""
        value = int(present)
        return Whole(min(self.low, value), max(self.high, value), self.log and value > 0)


@dataclass(frozen=True)
class Choice:
    """One of some values, which have no order."""

    values: tuple[Value, ...]

    def widened(self, present: Value) -> "Choice":
        """Return the choice with `present` among its values."""
        return self if present in self.values else replace(self, values=(*self.values, present))


Range = Real | Whole | Choice
Space = Mapping[str, Range]

_WIDTHS = Choice((32, 64, 128, 256))
_RECENCY: Space = {
    "recency.basket_decay": Real(0.3, 1.0),
    "recency.half_life_days": Real(7, 720, log=True),
}
# What leaves the loss of held-out data comparable between trials, so that it can end one early:
# no option of the loss, of the windows, or of what is held out.
_NETWORK: Space = {
    "embedding_size": _WIDTHS,
    "learning_rate": Real(5e-4, 2e-2, log=True),
    "weight_decay": Real(1e-3, 0.5, log=True),
    "dropout": Real(0.0, 0.6),
    "initial_std": Real(0.005, 0.1, log=True),
}
_SEQUENCE: Space = {**_NETWORK, "layers": Whole(1, 3)}
_POOLED: Space = {**_NETWORK, "heads": Whole(1, 8), "id_dropout": Real(0.0, 0.5)}

SPACES: Final[Mapping[str, Space]] = {
    "popularity": {"half_life_days": Real(3, 365, log=True)},
    "recently_viewed": _RECENCY,
    "buy_again": {
        "prior_repeats": Real(0.5, 50, log=True),
        "prior_gaps": Real(0.2, 20, log=True),
        "overdue_power": Real(0.0, 1.0),
    },
    "item_knn": {
        "n_neighbours": Whole(20, 1000, log=True),
        "shrink": Real(0.5, 200, log=True),
        **_RECENCY,
    },
    "user_knn": {
        "n_neighbours": Whole(20, 1000, log=True),
        "shrink": Real(0.1, 100, log=True),
        "rarity": Real(0.0, 1.5),
        "similarity_power": Real(0.5, 3.0),
        **_RECENCY,
    },
    "ease": {"reg": Real(1, 5000, log=True), "attribute_weight": Real(0.0, 8.0), **_RECENCY},
    "transitions": {
        "window": Whole(1, 30, log=True),
        "distance_decay": Real(0.3, 1.0),
        "half_life_days": Real(14, 1500, log=True),
        "popularity_power": Real(0.0, 1.0),
        "shrink": Real(0.5, 50, log=True),
        **_RECENCY,
    },
    "ials": {
        "embedding_size": _WIDTHS,
        "alpha": Real(0.1, 20, log=True),
        "unobserved_weight": Real(1e-4, 1, log=True),
        "reg": Real(1e-4, 0.1, log=True),
        "reg_power": Real(0.0, 1.0),
        **_RECENCY,
    },
    "pure_svd": {
        "embedding_size": Whole(16, 512, log=True),
        "item_power": Real(0.0, 1.0),
        **_RECENCY,
    },
    "attributes": {
        "category_weight": Real(0.05, 5, log=True),
        "brand_weight": Real(0.05, 5, log=True),
        "tag_weight": Real(0.05, 5, log=True),
        "rarity": Real(0.0, 2.0),
        **_RECENCY,
    },
    "text": {
        "embedding_size": Whole(16, 256, log=True),
        "word_weight": Real(0.05, 5, log=True),
        "char_weight": Real(0.05, 5, log=True),
        "attribute_weight": Real(0.05, 5, log=True),
        **_RECENCY,
    },
    "item2vec": {
        "embedding_size": _WIDTHS,
        "window": Whole(0, 20),
        "learning_rate": Real(5e-4, 5e-2, log=True),
        "weight_decay": Real(1e-4, 0.3, log=True),
        "negative_weight": Real(1, 50, log=True),
        "negative_power": Real(0.0, 1.0),
        **_RECENCY,
    },
    "sasrec": _SEQUENCE,
    "bsarec": {**_SEQUENCE, "filter_share": Real(0.1, 0.9)},
    "gru4rec": _SEQUENCE,
    "nextitnet": {**_SEQUENCE, "kernel_size": Whole(2, 5)},
    "two_tower": _POOLED,
    "neumf": {**_POOLED, "hidden_size": _WIDTHS},
    RANKER: {
        "max_depth": Whole(3, 9),
        "learning_rate": Real(0.03, 0.4, log=True),
        "max_trees": Whole(50, 400, log=True),
        "min_child_weight": Real(0.5, 50, log=True),
        "subsample": Real(0.5, 1.0),
        "colsample_bytree": Real(0.4, 1.0),
    },
    EVENT_WEIGHTS: {
        "view": Real(0.1, 10, log=True),
        "click": Real(0.1, 20, log=True),
        "search_click": Real(0.1, 20, log=True),
        "cart": Real(0.5, 30, log=True),
        "rating": Real(0.5, 30, log=True),
        "return": Real(-10.0, 0.0),
        "dislike": Real(-20.0, 0.0),
        "hide": Real(-20.0, 0.0),
    },
}
"""Model -> its options and their ranges."""

ENDED_BY_LOSS: Final = frozenset({"sasrec", "bsarec", "gru4rec", "nextitnet", "two_tower", "neumf"})
"""Models of which a trial may end early by the held-out loss of an epoch."""


def check_model(model: str) -> None:
    """Raise BadInputError for a name that cannot be tuned; it lists those that can."""
    if model not in SPACES:
        raise BadInputError(f"unknown model '{model}'; known: {sorted(SPACES)}")


def present_params(model: str, options: Mapping[str, Any], config: RecipeConfig) -> Params:
    """Return what the settings say now of each option of the model's space.

    `options` are those of its section; `config` is the recipe. Raises SettingsError for wrong ones.
    """
    if model == EVENT_WEIGHTS:
        return {name: config.event_weights.get(name, 0.0) for name in SPACES[model]}
    held = config if model == RANKER else make_retriever(model, options).config
    return {key: _at(held, key) for key in SPACES[model]}


def space_around(model: str, present: Params) -> Space:
    """Return the model's space over the options of `present`, widened to hold its values."""
    return {key: SPACES[model][key].widened(value) for key, value in present.items()}


def with_params(options: Mapping[str, Any], params: Params) -> dict[str, Any]:
    """Return options with `params` in place of what they say of the same ones."""
    changed = {
        key: dict(value) if isinstance(value, Mapping) else value for key, value in options.items()
    }
    for key, value in params.items():
        first, dot, rest = key.partition(".")
        if dot:
            changed[first] = with_params(changed.get(first, {}), {rest: value})
        else:
            changed[first] = value
    return changed


def rounded(params: Params) -> Params:
    """Return params with four significant digits: what is tried is what a person reads."""
    return {
        key: float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value
        for key, value in params.items()
    }


def _at(held: Any, key: str) -> Value:
    for name in key.split("."):
        held = getattr(held, name)
    value: Value = held
    return value
