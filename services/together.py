"""Complements of a cart: `complements` (items bought together above chance),
`category_complements` (what sells in categories that are), then what sells in other categories than
the cart's; and bundles of them.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from contracts.wire_related import BoughtTogetherRequest
from models.base import PAD, IntArray
from models.ranking.bought_together import BoughtTogether
from models.ranking.complements import Together
from services.engine import Answer, Place
from services.goods import Marks
from services.related_goods import RelatedGoods

COMPLEMENTS: Final = "complements"
CATEGORIES: Final = "category_complements"
DEPTH: Final = 20
"""Complements that are looked at for bundles, however short the list is."""
Level = Literal["item", "category"]


@dataclass(frozen=True)
class Companion:
    """An item that goes with one of the cart's: how many times above chance, and in how many
    baskets, they themselves or (`level`) items of their categories were bought together.
    """

    item: int
    partner: int
    score: float
    lift: float
    baskets: int
    level: Level


@dataclass(frozen=True)
class TogetherAnswer:
    """A list of complements, what is known of each (by item id), and bundles of item ids.

    `partners` are the ids of the cart's items that each goes with.
    """

    answer: Answer
    companions: dict[str, Companion]
    partners: dict[str, str]
    bundles: list[tuple[str, ...]]


def items_together(
    goods: RelatedGoods, request: BoughtTogetherRequest, unwanted: Iterable[str] = ()
) -> TogetherAnswer:
    """Return what is bought with a cart, none of it a substitute of what is in it.

    One of the category of a cart's item is a substitute, unless these two are bought together above
    chance. `unwanted` items are left out like those the request excludes.

    Raises:
        NoReleaseError: there is neither a release nor a snapshot.
    """
    goods.require_something()
    left_out = {*request.basket, *request.exclude, *unwanted}
    cart = goods.known(request.basket)
    alike = _alike(goods, cart) if len(cart) else None
    found, bundles = list[Companion](), list[tuple[str, ...]]()
    if goods.bought is not None and alike is not None:
        allowed = goods.allowed(request.filters, left_out)
        depth = max(request.k, DEPTH)
        found = _of_items(goods, goods.bought, cart, allowed, depth)
        more = allowed & ~alike
        more[[one.item for one in found]] = False
        found = [*found, *_of_categories(goods, goods.bought, cart, more, depth)]
        bundles = [
            tuple(goods.ids(np.array(bundle, np.int32)))
            for bundle in _bundles(goods, goods.bought, found, allowed, request.bundles)
        ]
        found = found[: request.k]
    places = _places(goods, found)
    ids = [place.item_id for place in places]
    partners = goods.ids(np.array([one.partner for one in found], np.int32))
    of_categories = any(one.level == "category" for one in found)
    answer = Answer(places, CATEGORIES if of_categories else COMPLEMENTS)
    return TogetherAnswer(
        goods.filled(answer, request.k, request.filters, left_out, barred=alike),
        dict(zip(ids, found, strict=True)),
        dict(zip(ids, partners, strict=True)),
        bundles,
    )


def _of_items(
    goods: RelatedGoods, bought: BoughtTogether, cart: IntArray, allowed: Marks, k: int
) -> list[Companion]:
    """Return at most k complements of a cart that are allowed and no substitutes of what is in
    it.
    """
    found = bought.items.of(cart)
    kept = allowed[found.items]
    codes, depths = goods.levels.codes, goods.levels.depths
    for item in cart.tolist():  # at most what a request's cart may hold
        same = (codes[found.items] == codes[item]).all(axis=1) & (depths[item] > 0)
        kept &= ~same | bought.items.among(item, found.items)
    return list(_companions(found.where(kept), found.where(kept).items, "item"))[:k]


def _of_categories(
    goods: RelatedGoods, bought: BoughtTogether, cart: IntArray, allowed: Marks, k: int
) -> list[Companion]:
    """Return at most k items of the categories that go with the cart's: of each category in turn
    the most wanted, the best category first.
    """
    codes = goods.category_codes
    own = codes[cart]
    own, first = np.unique(own[own != PAD], return_index=True)
    holders = cart[codes[cart] != PAD][first]
    found = bought.categories.of(own.astype(np.int32))
    order = goods.popular()
    order = order[allowed[order]]
    turn = np.full(len(bought.names) + 1, len(found.items))
    turn[found.items] = np.arange(len(found.items))
    place = turn[codes[order]]  # PAD takes the last, which no category has
    listed = place < len(found.items)
    order, place = order[listed], place[listed]
    by_category = np.argsort(place, kind="stable")
    ranks = np.empty(len(order), np.int64)
    sorted_place = place[by_category]
    ranks[by_category] = np.arange(len(order)) - np.searchsorted(sorted_place, sorted_place)
    chosen = np.lexsort((place, ranks))[:k]
    of_category = place[chosen]
    told = Together(
        items=order[chosen],
        scores=found.scores[of_category],
        lifts=found.lifts[of_category],
        baskets=found.baskets[of_category],
        partners=holders[np.searchsorted(own, found.partners[of_category])],
    )
    return list(_companions(told, told.items, "category"))


def _companions(found: Together, items: IntArray, level: Level) -> Iterator[Companion]:
    rows = zip(
        items.tolist(),
        found.partners.tolist(),
        found.scores.tolist(),
        found.lifts.tolist(),
        found.baskets.tolist(),
        strict=True,
    )
    return (Companion(*row, level=level) for row in rows)


def _places(goods: RelatedGoods, found: list[Companion]) -> list[Place]:
    """Return the places of complements; a score is never above the one before, for what is known
    of two items counts more than what is known of their categories.
    """
    sources: dict[Level, str] = {"item": COMPLEMENTS, "category": CATEGORIES}
    ids = goods.ids(np.array([one.item for one in found], np.int32))
    lowest = np.minimum.accumulate([one.score for one in found]).tolist()
    return [
        Place(item_id, score, [sources[one.level]], [one.score])
        for item_id, one, score in zip(ids, found, lowest, strict=True)
    ]


def _alike(goods: RelatedGoods, cart: IntArray) -> Marks:
    """Mark the release's items that are of the very category of one of the cart's, (I,)."""
    codes, depths = goods.levels.codes, goods.levels.depths
    marked = np.zeros(len(codes), bool)
    for own in np.unique(codes[cart[depths[cart] > 0]], axis=0):
        marked |= (codes == own).all(axis=1)
    return marked


def _bundles(
    goods: RelatedGoods, bought: BoughtTogether, found: list[Companion], allowed: Marks, n: int
) -> Iterator[tuple[int, ...]]:
    """Yield at most n bundles: each of the list's items with its partner, then with a third, all on
    sale at a known price.
    """
    sold = [one for one in found if _sold(goods, one.item) and _sold(goods, one.partner)]
    made: set[frozenset[int]] = set()
    for one in sold:
        pair = (one.partner, one.item)
        for third in (None, _third(goods, bought, one, sold, allowed)):
            bundle = pair if third is None else (*pair, third)
            if len(made) >= n:
                return
            if frozenset(bundle) not in made:
                made.add(frozenset(bundle))
                yield bundle


def _third(
    goods: RelatedGoods,
    bought: BoughtTogether,
    one: Companion,
    sold: list[Companion],
    allowed: Marks,
) -> int | None:
    """Return what goes with both items of a pair: what is bought with the two above chance, else
    the best of the list that goes with the partner and is of another category than the second.
    """
    pair = np.array([one.partner, one.item], np.int32)
    for more in _of_items(goods, bought, pair, allowed, DEPTH):
        if _sold(goods, more.item):
            return more.item
    codes = goods.levels.codes
    others = (other for other in sold if other.partner == one.partner)
    return next((o.item for o in others if (codes[o.item] != codes[one.item]).any()), None)


def _sold(goods: RelatedGoods, item: int) -> bool:
    """Say whether an item is on sale at a known price."""
    shelf, place = goods.shelf, int(goods.goods.places[item])
    if shelf is None or place == PAD:
        return False
    return bool(shelf.available[place]) and not np.isnan(shelf.prices[place])
