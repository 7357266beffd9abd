"""What belongs to a product, as the service answers it."""

import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime
from typing import Any, TypeVar

from contracts.state import UserState
from contracts.wire import RecommendedItem
from contracts.wire_related import (
    BoughtTogetherRequest,
    BoughtTogetherResponse,
    Bundle,
    SimilarRequest,
    SimilarResponse,
    TogetherItem,
)
from models.ranking.two_stage import TwoStageRecommender
from services.described import Described
from services.engine import MODEL, Answer, Place
from services.goods import Goods
from services.history import micros, state_before
from services.lists import unwanted
from services.problems import NoReleaseError
from services.related_goods import RelatedGoods
from services.seldom import Seldom
from services.shelf import Shelf
from services.similar import similar_items
from services.together import TogetherAnswer, items_together

log = logging.getLogger(__name__)

Found = TypeVar("Found")
PRICE_DIGITS = 4
"""Decimals of a joint price: sums of cents are not exact in binary."""


class RelatedItems:
    """Substitutes and complements of one release on one snapshot, either of which may be absent."""

    def __init__(
        self, recommender: TwoStageRecommender | None, shelf: Shelf | None, goods: Goods
    ) -> None:
        self._goods = RelatedGoods(recommender, shelf, goods)
        self._below = None if shelf is None else RelatedGoods(None, shelf, goods)
        self._failures = Seldom()

    def warm(self) -> None:
        """Lay out what every question needs."""
        self._goods.warm()

    def similar(
        self,
        request: SimilarRequest,
        left_out: Iterable[str] = (),
        *,
        skipped: tuple[str, ...] = (),
    ) -> Answer:
        """Return substitutes of an item (`similar_items`); `skipped` names stages that were left
        out before.
        """
        answer, failed = self._answered(lambda goods: similar_items(goods, request, left_out))
        return replace(answer, skipped=(*skipped, *failed))

    def together(
        self,
        request: BoughtTogetherRequest,
        left_out: Iterable[str] = (),
        *,
        skipped: tuple[str, ...] = (),
    ) -> TogetherAnswer:
        """Return what is bought with a cart (`items_together`); `skipped` as for `similar`."""
        found, failed = self._answered(lambda goods: items_together(goods, request, left_out))
        return replace(found, answer=replace(found.answer, skipped=(*skipped, *failed)))

    def _answered(self, ask: Callable[[RelatedGoods], Found]) -> tuple[Found, tuple[str, ...]]:
        """Ask the release, and where it fails the snapshot alone; say which stages failed."""
        try:
            return ask(self._goods), ()
        except NoReleaseError:
            raise
        # A fault of the model must not empty the page: the ladder's next rungs answer.
        except Exception:
            if self._below is None:
                raise
            if self._failures.due():
                log.exception("the release failed on a question about related items")
            return ask(self._below), (MODEL,)


def unwanted_of(state: UserState, now: datetime) -> set[str]:
    """Return the items that a shopper hid or disliked before `now` and did not come back to."""
    return unwanted(state_before(state, micros(now)))


def similar_response(answer: Answer, described: Described, head: dict[str, str]) -> SimilarResponse:
    """Put substitutes into the wire's shape; `head` has request_id, release and snapshot."""
    items = [
        RecommendedItem.model_validate(_shown(place, position) | described(place.item_id))
        for position, place in enumerate(answer.places, start=1)
    ]
    return SimilarResponse.model_validate({
        **head,
        "rung": answer.rung,
        "skipped": list(answer.skipped),
        "items": items,
    })


def together_response(
    found: TogetherAnswer, described: Described, head: dict[str, str]
) -> BoughtTogetherResponse:
    """Put complements and bundles into the wire's shape; a bundle's price is the sum of today's."""
    items = []
    for position, place in enumerate(found.answer.places, start=1):
        companion = found.companions.get(place.item_id)
        told = _shown(place, position) | described(place.item_id)
        if companion is not None:
            partner = found.partners[place.item_id]
            told |= {
                "goes_with": partner,
                "lift": companion.lift,
                "baskets": companion.baskets,
                "level": companion.level,
                "reason_kind": "bought_together",
                "because": partner,
            }
            title = described(partner).get("title")
            said = "Often bought with" if companion.level == "item" else "Goes with"
            told["reason"] = f"{said} {title}" if title else None
        items.append(TogetherItem.model_validate(told))
    bundles = []
    for item_ids in found.bundles:
        parts = [described(item_id) for item_id in item_ids]
        total = math.fsum(float(part["price"] or 0.0) for part in parts)
        bundles.append(
            Bundle.model_validate({
                "item_ids": list(item_ids),
                "titles": [part["title"] for part in parts],
                "price": round(total, PRICE_DIGITS),
            })
        )
    return BoughtTogetherResponse.model_validate({
        **head,
        "rung": found.answer.rung,
        "skipped": list(found.answer.skipped),
        "items": items,
        "bundles": bundles,
    })


def _shown(place: Place, position: int) -> dict[str, Any]:
    return {
        "item_id": place.item_id,
        "position": position,
        "score": place.score,
        "sources": place.sources,
    }
