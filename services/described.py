"""What is shown of an item beside its place in a list."""

import math

from models.base import PAD
from models.ranking.two_stage import TwoStageRecommender
from services.shelf import Shelf


class Described:
    """Title, price, category and brand of items as the snapshot has them; without one the
    release's, which knows no price of today.
    """

    def __init__(self, recommender: TwoStageRecommender | None, shelf: Shelf | None) -> None:
        self._recommender = recommender
        self._shelf = shelf

    def __call__(self, item_id: str) -> dict[str, str | float | None]:
        """Return the fields of RecommendedItem, None where unknown."""
        shelf = self._shelf
        if shelf is not None and (place := shelf.places.get(item_id)) is not None:
            price = float(shelf.prices[place])
            category, brand = (names[codes[place]] for codes, names in shelf.labels)
            return {
                "title": shelf.titles[place] or None,
                "price": None if math.isnan(price) else price,
                "category": category,
                "brand": brand,
            }
        if self._recommender is not None:
            found = int(self._recommender.index.lookup([item_id])[0])
            catalogue = self._recommender.stage.catalogue
            if found != PAD:
                return {
                    "title": catalogue.titles[found] or None,
                    "category": catalogue.categories[found] or None,
                    "brand": catalogue.brands[found] or None,
                }
        return {}
