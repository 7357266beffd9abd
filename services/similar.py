"""Substitutes of an item: `similar` (content and what shoppers looked at), `content` (nobody looked
at it yet), then what sells in its category, then in the shop.
"""

from collections.abc import Iterable

import numpy as np

from contracts.wire_related import SimilarRequest
from models.base import PAD
from models.ranking.substitutes import CO_VIEW, substitutes
from services.engine import Answer, Place
from services.goods import Marks
from services.related_goods import RelatedGoods

SIMILAR, CONTENT_ONLY = "similar", "content"


def similar_items(
    goods: RelatedGoods, request: SimilarRequest, unwanted: Iterable[str] = ()
) -> Answer:
    """Return substitutes of an item; none is a complement of it, nor of a category that is one of
    its own.

    `unwanted` items are left out like those the request excludes.

    Raises:
        NoReleaseError: there is neither a release nor a snapshot.
    """
    goods.require_something()
    left_out = {request.item_id, *request.exclude, *unwanted}
    answer, barred = Answer([], SIMILAR), None
    known = goods.known([request.item_id])
    if len(known):
        item = int(known[0])
        barred = _complements(goods, item)
        allowed = goods.allowed(request.filters, left_out) & ~barred
        answer = _substitutes(goods, item, request.k, allowed)
    segment = -1 if goods.shelf is None else goods.shelf.segment_of([request.item_id])
    return goods.filled(
        answer, request.k, request.filters, left_out, segment=segment, barred=barred
    )


def _substitutes(goods: RelatedGoods, item: int, k: int, allowed: Marks) -> Answer:
    assert goods.recommender is not None
    found = substitutes(goods.recommender.stage, goods.levels, item, k, allowed)
    rows = zip(
        goods.ids(found.items), found.scores.tolist(), found.base_scores.tolist(), strict=True
    )
    places = [
        Place(
            item_id,
            score,
            [name for name, part in zip(found.names, base, strict=True) if part > 0],
            base,
        )
        for item_id, score, base in rows
    ]
    seen = set(found.known_by) & set(CO_VIEW)
    return Answer(places, SIMILAR if seen else CONTENT_ONLY)


def _complements(goods: RelatedGoods, item: int) -> Marks:
    """Mark what goes with an item and is none of its substitutes, (I,)."""
    codes = goods.category_codes
    marked = np.zeros(len(codes), bool)
    if goods.bought is None:
        return marked
    everything = np.arange(len(codes), dtype=np.int32)
    if codes[item] != PAD:
        beside = goods.bought.categories.of(codes[item : item + 1]).items
        marked |= np.isin(codes, beside)
    return marked | goods.bought.items.among(item, everything)
