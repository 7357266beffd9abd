"""The values of one training recipe: windows, sizes, the ranker's parameters. Loaded strictly from
`[training]`.
"""

from dataclasses import asdict, dataclass, field
from typing import Any, Final, get_args

import numpy as np

from contracts.errors import SettingsError
from contracts.events import AGAINST_WEIGHTS, EVENT_CODES, EVENT_TYPES, EVENT_WEIGHTS
from models.base import FloatArray
from models.device import DeviceName

REPEATS_ALLOWED: Final = "repeats_allowed"
NEW_ITEMS_ONLY: Final = "new_items_only"
TABLES: Final = (REPEATS_ALLOWED, NEW_ITEMS_ONLY)
AUTO: Final = "auto"
FUSIONS: Final = (AUTO, "blend", "blend_softmax", "stacking", "cascade", "lambdamart")


@dataclass(frozen=True)
class RecipeConfig:
    """Every choice of a training run; equal configs on equal data give equal releases."""

    history_length: int = 50
    """Newest events of a shopper that the retrievers see."""
    rank_days: int = 28
    """Days before the test window whose sessions the ranker learns from."""
    test_days: int = 14
    """Last days before `now`, judged once."""
    candidates_per_retriever: int = 100
    """Items each retriever proposes for a query."""
    history_candidates: int = 100
    """Most recent items of the shopper's own that are candidates where repeats are allowed."""
    max_candidates: int = 300
    """Candidates ranked per query; above this the lowest placed proposals are left out."""
    max_rank_queries: int = 6000
    max_test_queries: int = 4000
    negatives_per_query: int = 60
    """Candidates without a target's grade that are kept per query in the ranker's training rows."""
    validation_share: float = 0.15
    """Share of the rank window's shoppers kept for early stopping and the choice of fusion."""
    stopping_share: float = 0.3
    """Share of the validation shoppers who stop the trees; the others choose the fusion. All do
    both where fewer than 100 would be left to choose.
    """
    fusion: str = "auto"
    """`auto` fits `blend`, `blend_softmax`, `stacking`, `cascade` and `lambdamart`, and serves what
    is best on the choosing validation shoppers; a name fits that one.
    """
    cascade_keeps: int = 100
    """Candidates that the cascade's blend hands to its trees."""
    ablation_queries: int = 800
    """Training queries on which the trees are fitted again without each family of features, to
    report what each is worth; 0: not done.
    """
    prune_features: bool = False
    """Fit the trees again without the families of features that do no good on the choosing
    validation shoppers, and take them if they are no worse there.
    """
    k: int = 10
    """List length that the choice of fusion and the gate look at (NDCG@k)."""
    seed: int = 7
    max_depth: int = 5
    learning_rate: float = 0.15
    max_trees: int = 120
    """Rounds of boosting at most."""
    parallel_trees: int = 1
    """Trees of one round, each of other rows and features, averaged: steadier, and as much dearer.
    """
    early_stopping_rounds: int = 12
    min_child_weight: float = 5.0
    subsample: float = 0.9
    colsample_bytree: float = 0.8
    primary_table: str = REPEATS_ALLOWED
    """The table of results that decides: `repeats_allowed` or `new_items_only`."""
    bootstrap_samples: int = 1000
    event_weights: dict[str, float] = field(
        default_factory=lambda: {
            name: float(weight) for name, weight in (EVENT_WEIGHTS | AGAINST_WEIGHTS).items()
        }
    )
    """Strength of an event by its type. Below 0: it speaks against its item, and takes back what
    the shopper did with it before. A type that is left out counts 0: it is not looked at."""
    minimum_champion_shoppers: int = 500
    """Fewer test shoppers than this after the champion's data end: its recipe is refitted instead.
    """
    num_threads: int = 0
    """Threads of the ranker's training; 0 takes half of the cores (on a busy machine, threads that
    wait for each other cost more than they bring). A request is always scored by one."""
    block_queries: int = 256
    """Queries that go through retrieval and the ranker frame at a time: bounds memory."""
    device: DeviceName = "auto"
    """Where models are fitted: `auto` (a GPU where there is one), `cpu` or `cuda`. A retriever with
    a `device` of its own other than `auto` takes that. Scoring is always on the CPU."""

    def __post_init__(self) -> None:
        """Refuse values that no run could use, naming the setting.

        Raises:
            SettingsError: a number out of its range, or an unknown fusion, table or event type.
        """
        _check_choice("fusion", self.fusion, FUSIONS)
        _check_choice("primary_table", self.primary_table, TABLES)
        _check_choice("device", self.device, get_args(DeviceName))
        for name in self.event_weights:
            _check_choice("event_weights", name, EVENT_TYPES)
        for name in _AT_LEAST_ONE:
            if getattr(self, name) < 1:
                raise SettingsError(f"training.{name} = {getattr(self, name)!r}: must be 1 or more")
        for name, most in _SHARES.items():
            if not 0 < getattr(self, name) <= most:
                raise SettingsError(
                    f"training.{name} = {getattr(self, name)!r}: must be in (0, {most}]"
                )
        if self.ablation_queries < 0:
            raise SettingsError(
                f"training.ablation_queries = {self.ablation_queries}: must be 0 or more"
            )
        if self.prune_features and not self.ablation_queries:
            raise SettingsError(
                "training.prune_features: needs the ablation; set training.ablation_queries"
            )

    def weights(self) -> FloatArray:
        """Return event weights by event code, (number of event types,) float32."""
        weights = np.zeros(len(EVENT_TYPES), np.float32)
        for name, weight in self.event_weights.items():
            weights[EVENT_CODES[name]] = weight
        return weights

    def to_json(self) -> dict[str, Any]:
        """Return the config as plain JSON values; the strict loader reads it back."""
        return asdict(self)


_SHARES = {
    "validation_share": 0.5,
    "stopping_share": 0.9,
    "learning_rate": 1.0,
    "subsample": 1.0,
    "colsample_bytree": 1.0,
}
_AT_LEAST_ONE = (
    "history_length",
    "rank_days",
    "test_days",
    "candidates_per_retriever",
    "history_candidates",
    "max_candidates",
    "max_rank_queries",
    "max_test_queries",
    "negatives_per_query",
    "cascade_keeps",
    "k",
    "max_depth",
    "max_trees",
    "parallel_trees",
    "early_stopping_rounds",
    "bootstrap_samples",
    "minimum_champion_shoppers",
    "block_queries",
)


def _check_choice(setting: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise SettingsError(f"training.{setting}: unknown value {value!r}; known: {list(known)}")
