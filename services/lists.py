"""The shop's rules on one catalogue: which items a list may hold, and the list that a ranking
makes.

All is counted by place: that of an item in the snapshot, or without a snapshot in the release's own
catalogue. Masks are made once for a scenario, and kept for the filters asked last.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from contracts.events import DISLIKE, HIDE, PURCHASE
from contracts.state import UserState
from contracts.wire import RecommendRequest
from contracts.wire_filters import Boost, Filters
from models.base import PAD, FloatArray, IntArray
from models.ranking.diversity import Likeness, ListWishes, Pool, select
from models.ranking.repeats import bought_for_good
from models.ranking.rerank import Quota
from models.ranking.two_stage import TwoStageRecommender
from models.retrieval.text import Text
from models.search.filters import Filters as ItemFilters
from services.given_places import Given, Open, given_places, rows_of
from services.goods import Goods, Marks, hidden_marks
from services.rules import Preset, Rules
from services.shelf import Shelf, item_filters

POOL_PER_PLACE: Final = 4
"""Candidates looked at for each place of a list that is more than the ranking's head."""
FILL: Final = 1000
"""Popular items looked at on each rung, where the ranking does not fill a list."""
KEPT_MASKS: Final = 16


@dataclass(frozen=True)
class Plan:
    """What one request wants of its list.

    shown     (I,) bool by the release's own numbers, None: all    allowed  (N,) bool, by place
    left_out  ids that are not answered                 boosts   (N,) float32, log of the factors
    marked    (N,) bool, new items                      quota    their places, None: no rule
    """

    k: int
    shown: Marks | None
    allowed: Marks
    left_out: set[str]
    wishes: ListWishes
    category_level: int
    boosts: FloatArray | None
    given: tuple[Given, ...]
    marked: Marks | None
    quota: Quota | None

    @property
    def plain(self) -> bool:
        """Whether the ranking's head is the list."""
        return self.wishes.plain and self.boosts is None and not self.given

    def depth(self, per_retriever: int, most: int) -> int:
        """Return how many ranked candidates are looked at, at least k."""
        if self.plain:
            return self.k
        wishes = self.wishes
        capped = wishes.max_per_category is not None or wishes.max_per_brand is not None
        wanted = most if capped or self.boosts is not None else POOL_PER_PLACE * self.k
        return max(self.k, min(max(wanted, per_retriever), most))


@dataclass(frozen=True)
class Listed:
    """One place of a list: `row` of the ranking, -1 for what it does not hold; `source` where that
    is not the ranking alone.
    """

    place: int
    row: int
    source: str | None = None


@dataclass(frozen=True)
class _Ruled:
    """A preset on the goods: as in Plan; `unsold` are the allowed marks with what is not on
    sale.
    """

    preset: Preset
    unsold: Marks
    allowed: Marks
    shown: Marks | None
    boosts: FloatArray | None
    marked: Marks | None
    quota: Quota | None


class ShopLists:
    """The rules of all scenarios on one catalogue. Immutable but for the masks it keeps; threads
    share it.
    """

    def __init__(
        self, rules: Rules, recommender: TwoStageRecommender | None, shelf: Shelf | None
    ) -> None:
        self.goods = Goods.of(recommender, shelf, rules.hide)
        self.rules = rules
        self._shelf = shelf
        self._text = _text_of(recommender)
        self._all_shown = shelf is None
        self._ruled = {name: self._on_goods(preset) for name, preset in rules.presets.items()}
        self._masks: OrderedDict[str, tuple[Marks, Marks | None]] = OrderedDict()
        self._lock = threading.Lock()

    def warm(self) -> None:
        """Make what the rules need, and what any request may ask: the words or vectors of items."""
        presets = [ruled.preset for ruled in self._ruled.values()]
        nobody = np.empty(0, np.int32)
        self.goods.traits.levels(nobody)
        self._content(nobody)
        if any(preset.variants != "any" for preset in presets):
            _ = self.goods.traits.variants
        for preset in presets:
            if preset.max_per_brand is not None:
                _ = self.goods.traits.brands
            if preset.max_per_category is not None:
                self.goods.traits.categories(preset.category_level)

    def plan(self, request: RecommendRequest, state: UserState, now_us: int) -> Plan:
        """Return what a request asks for, under the rules of its scenario.

        Left out: what the request excludes, asks about or has in its cart, what the shopper hid or
        disliked, and where asked what is in the history, or was bought and is not bought again by
        nature.

        Raises:
            BadInputError: there is no such scenario.
        """
        preset = self.rules.preset(request.scenario)
        ruled = self._ruled[request.scenario]
        allowed, shown = self._masked(request.scenario, ruled, request.filters)
        left_out = {*request.exclude, *request.cart, *unwanted(state)}
        if request.item_id is not None:
            left_out.add(request.item_id)
        if request.new_items_only:
            left_out.update(state.event_items)
        asked = request.exclude_bought
        if preset.exclude_bought if asked is None else asked:
            left_out |= self._bought(state, preset.repeat_rate)
        open_ = Open(allowed, left_out)
        return Plan(
            k=request.k,
            shown=shown,
            allowed=allowed,
            left_out=left_out,
            wishes=_wishes(preset, request),
            category_level=preset.category_level,
            boosts=self._boosts(ruled.boosts, request.boosts),
            given=tuple(given_places(self.goods, request, preset, open_, now_us)),
            marked=ruled.marked,
            quota=ruled.quota,
        )

    def arrange(
        self, plan: Plan, ranked: IntArray, scores: FloatArray, state: UserState, *, varied: bool
    ) -> list[Listed]:
        """Return the list that a ranking makes: (R,) of the release's items, best first, with their
        (R,) finite scores. Where it is too short, popular items of the shopper's segment and then
        of the shop follow; nothing that is not allowed does.

        Where not `varied`, diversity is left out, and no other wish.
        """
        wishes = plan.wishes if varied else replace(plan.wishes, diversity=0.0)
        places = self.goods.places[ranked]
        rows = np.arange(len(ranked))
        if plan.boosts is not None and len(scores):
            scores = scores + plan.boosts[places] * max(float(scores.std()), 1e-6)
            rows = np.argsort(-scores, kind="stable")
            places, scores = places[rows], scores[rows]
        fixed, outside = rows_of(plan.given, places)
        kept = 0 if plan.quota is None else plan.quota.places(plan.k)

        def listed(fill: Sequence[IntArray], relaxed: bool) -> tuple[list[Listed], int]:
            parts = [places, np.asarray(outside, np.int32), *fill]
            pool = self._pool(plan, wishes, parts, scores)
            chosen = select(pool, wishes, plan.k, fixed=fixed, kept=kept, relaxed=relaxed)
            whole = np.concatenate(parts)
            by_row = {row: plan.given[n].source for n, row in enumerate(fixed.values())}
            return [
                Listed(
                    int(whole[one]),
                    int(rows[one]) if one < len(rows) else -1,
                    by_row.get(one) or RUNG_OF_TIER.get(int(pool.tiers[one])),
                )
                for one in chosen.tolist()
            ], len(chosen)

        found, n_found = listed((), relaxed=self._shelf is None)
        if n_found < plan.k and self._shelf is not None:
            fill = self._popular(plan, state, np.concatenate((places, outside)).astype(np.int32))
            found, _ = listed(fill, relaxed=True)
        return found

    def _pool(
        self, plan: Plan, wishes: ListWishes, parts: Sequence[IntArray], scores: FloatArray
    ) -> Pool:
        """Put ranked, given and popular items together."""
        traits, whole = self.goods.traits, np.concatenate(parts)
        tiers = np.repeat(
            np.asarray([0, Pool.given, 1, 2], np.int8)[: len(parts)], [*map(len, parts)]
        )
        none = np.full(len(whole), -1, np.int32)
        alike = None
        if wishes.diversity > 0:
            # What only fills a list is not chosen for its variety.
            varied = whole[: len(parts[0]) + len(parts[1])]
            alike = Likeness(self._content(varied), traits.levels(varied))
        return Pool(
            scores=np.concatenate((scores, np.zeros(len(whole) - len(scores)))).astype(np.float32),
            categories=none
            if wishes.max_per_category is None
            else traits.categories(plan.category_level)[whole],
            brands=none if wishes.max_per_brand is None else traits.brands[whole],
            variants=none if wishes.variants == "any" else traits.variants[whole],
            tiers=tiers,
            marked=np.zeros(len(whole), bool) if plan.marked is None else plan.marked[whole],
            alike=alike,
        )

    def _content(self, places: IntArray) -> FloatArray:
        """Return unit vectors of items: the release's text vectors, else the words of titles."""
        if self._text is not None:
            return self._text.vectors_of(self.goods.items[places])
        return self.goods.traits.words(places)

    def _popular(self, plan: Plan, state: UserState, taken: IntArray) -> list[IntArray]:
        """Return the popular items of the shopper's segment, and of the shop, that may follow."""
        assert self._shelf is not None
        shelf, open_ = self._shelf, plan.allowed.copy()
        out = self.goods.index.lookup(sorted(plan.left_out))
        open_[out[out != PAD]] = False
        open_[taken] = False
        most = plan.k if plan.plain else FILL
        segment = shelf.segment_of(state.event_items)
        near = shelf.popular[:0]
        if segment >= 0:
            near = _first(shelf.popular, open_, most, shelf.segments, segment)
        open_[near] = False
        return [near, _first(shelf.popular, open_, most)]

    def _on_goods(self, preset: Preset) -> _Ruled:
        goods = self.goods
        unsold = goods.facts.mask(
            ItemFilters(price_min=preset.price_min, price_max=preset.price_max), None
        )
        unsold &= ~hidden_marks(goods.index, goods.facts, preset.hide)
        allowed = unsold & goods.available
        quota = marked = None
        if preset.new_item_share > 0 and self._shelf is not None:
            marked = goods.ages_days < preset.new_item_days
            quota = Quota(goods.of_release(marked), preset.new_item_share)
        return _Ruled(
            preset=preset,
            unsold=unsold,
            allowed=allowed,
            shown=self._shown(allowed),
            boosts=self._boosts(None, preset.boosts),
            marked=marked,
            quota=quota,
        )

    def _shown(self, allowed: Marks) -> Marks | None:
        return None if self._all_shown and allowed.all() else self.goods.of_release(allowed)

    def _masked(self, scenario: str, ruled: _Ruled, filters: Filters) -> tuple[Marks, Marks | None]:
        if filters == Filters():
            return ruled.allowed, ruled.shown
        key = f"{scenario}\x00{filters.model_dump_json()}"
        with self._lock:
            if (held := self._masks.get(key)) is not None:
                self._masks.move_to_end(key)
                return held
        open_ = ruled.allowed if filters.in_stock else ruled.unsold
        allowed = self.goods.facts.mask(item_filters(filters), open_)
        made = allowed, self._shown(allowed)
        with self._lock:
            self._masks[key] = made
            if len(self._masks) > KEPT_MASKS:
                self._masks.popitem(last=False)
        return made

    def _boosts(self, rules: FloatArray | None, boosts: Iterable[Boost]) -> FloatArray | None:
        total = rules
        for boost in boosts:
            if total is None:
                total = np.zeros(len(self.goods.index), np.float32)
            elif total is rules:
                total = total.copy()
            total[self.goods.holding(boost)] += np.float32(np.log(boost.factor))
        return total

    def _bought(self, state: UserState, least_rate: float) -> set[str]:
        if PURCHASE not in state.event_types:
            return set()
        places = self.goods.index.lookup(state.event_items)
        rates = np.append(self.goods.repeat_rates, np.float32(np.nan))[places]  # PAD is the last
        return bought_for_good(
            state.event_items, state.event_types, state.event_times, rates, least_rate
        )


RUNG_OF_TIER: Final = {1: "segment_popularity", 2: "global_popularity"}


def unwanted(state: UserState) -> set[str]:
    """Return the items a shopper hid or disliked and did not come back to since."""
    last = dict(zip(state.event_items, state.event_types, strict=True))
    return {item_id for item_id, kind in last.items() if kind in {HIDE, DISLIKE}}


def _wishes(preset: Preset, request: RecommendRequest) -> ListWishes:
    """Return what is asked of a list; who asks for some categories or brands alone gets them
    uncapped.
    """
    wishes = preset.wishes
    if request.diversity is not None and request.diversity != wishes.diversity:
        wishes = replace(wishes, diversity=request.diversity)
    if request.filters.categories and wishes.max_per_category is not None:
        wishes = replace(wishes, max_per_category=None)
    if request.filters.brands and wishes.max_per_brand is not None:
        wishes = replace(wishes, max_per_brand=None)
    return wishes


def _first(
    places: IntArray,
    marks: Marks,
    most: int,
    codes: IntArray | None = None,
    code: int = -1,
) -> IntArray:
    """Return the first `most` of places that are marked, and of that code where one is given; reads
    no further than it must.
    """
    found: list[IntArray] = []
    start, width = 0, 4 * most
    while start < len(places) and most > 0:
        some = places[start : start + width]
        kept = marks[some] if codes is None else marks[some] & (codes[some] == code)
        found.append(some[kept][:most])
        most -= len(found[-1])
        start, width = start + width, 2 * width
    return np.concatenate(found) if found else places[:0]


def _text_of(recommender: TwoStageRecommender | None) -> Text | None:
    if recommender is None:
        return None
    found: Any = recommender.stage.retrievers.get(Text.name)
    return found if isinstance(found, Text) else None
