"""Feature ablation by family: what the ranker loses on the validation shoppers without each."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from models.evaluation.metrics import Interval, Vector, paired_bootstrap
from models.ranking.config import RecipeConfig
from models.ranking.frame import AGREEMENT, ITEM_PREFIX
from models.ranking.lambdamart import LambdaMART
from models.ranking.training_rows import RankRows

_PAIRS: Final = {
    "repeats": (
        "pair__times_seen",
        "pair__times_bought",
        "pair__days_since_seen",
        "pair__days_since_bought",
        "pair__purchase_gap_days",
        "pair__due",
        "pair__in_last_basket",
    ),
    "price fit": ("pair__price_ratio", "pair__price_z"),
    "co-visitation": ("pair__covisit_max", "pair__covisit_sum"),
    "opinions": ("pair__disliked_before", "pair__returned_before"),
}
_ENDINGS: Final = {"__score": "raw scores", "__z": "z-scores", "__rank": "ranks"}


@dataclass(frozen=True)
class Ablated:
    """One family left out: how many features it has, and NDCG@k without it minus with it.

    `difference.upper` below 0: the family is needed. A mean of 0 or more: it may go.
    """

    family: str
    features: int
    difference: Interval


def family_of(name: str) -> str:
    """Return the family of a feature of the frame, by its name."""
    if name in AGREEMENT:
        return "agreement"
    if name.startswith(ITEM_PREFIX):
        return "item"
    if name.startswith("user__"):
        return "shopper"
    for family, names in _PAIRS.items():
        if name in names:
            return family
    if name.startswith("pair__"):
        return "taste"
    return next((kind for end, kind in _ENDINGS.items() if name.endswith(end)), "other")


def families(names: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Return family -> its features, families in the order of their first feature."""
    found: dict[str, tuple[str, ...]] = {}
    for name in names:
        found[family_of(name)] = (*found.get(family_of(name), ()), name)
    return found


def ablate(
    train: RankRows,
    judge: Callable[[LambdaMART], Vector],
    config: RecipeConfig,
    n_trees: int,
) -> tuple[Ablated, ...]:
    """Fit `n_trees` trees with all features, and again without each family; compare the (S,)
    values that `judge` gives of each validation shopper's lists.

    At most `config.ablation_queries` training queries are used: this compares, it releases nothing.
    A family that is all there is cannot be left out.
    """
    rows = train.with_targets().first_queries(config.ablation_queries)
    fixed = replace(config, max_trees=n_trees, parallel_trees=1)
    whole = judge(LambdaMART.fit(rows, None, fixed))
    found = []
    for family, members in families(rows.names).items():
        rest = tuple(name for name in rows.names if name not in members)
        if not rest:
            continue
        without = judge(LambdaMART.fit(rows.only(rest), None, fixed))
        interval = paired_bootstrap(
            without, whole, samples=config.bootstrap_samples, seed=config.seed
        )
        found.append(Ablated(family, len(members), interval))
    return tuple(found)


def kept_names(names: tuple[str, ...], ablated: tuple[Ablated, ...]) -> tuple[str, ...]:
    """Return the features without the families whose absence did no harm; all, where none would be
    left.
    """
    weak = {each.family for each in ablated if each.difference.difference >= 0}
    kept = tuple(name for name in names if family_of(name) not in weak)
    return kept or names
