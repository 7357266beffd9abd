"""What a request may ask of the items of a list: filters, boosts and pins."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from contracts.wire_body import Body, Name

Price = Annotated[float, Field(ge=0, le=1e12)]
Names = Annotated[list[Name], Field(max_length=100)]


class Filters(Body):
    """Conditions that every item of the list meets; an empty one asks nothing.

    The values of one field are alternatives, but for `tags`, of which an item has all.
    """

    categories: Names = []
    """Category paths or beginnings of them, level by level: `home > kitchen`."""
    brands: Names = []
    tags: Names = []
    price_min: Price | None = None
    """An item without a price meets neither bound."""
    price_max: Price | None = None
    in_stock: bool = True
    """False: items that are not on sale now may be listed too."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        low, high = self.price_min, self.price_max
        if low is not None and high is not None and low > high:
            raise ValueError(f"price_min = {low} is above price_max = {high}; swap them")
        return self


class Boost(Body):
    """A factor on the score of some items: those of all given fields."""

    item_id: Name | None = None
    category: Name | None = None
    brand: Name | None = None
    tag: Name | None = None
    factor: Annotated[float, Field(gt=0, le=100)]
    """Above 1: further up; below 1: further down."""

    @model_validator(mode="after")
    def _something(self) -> Self:
        if all(v is None for v in (self.item_id, self.category, self.brand, self.tag)):
            raise ValueError("a boost needs item_id, category, brand or tag")
        return self


class Pin(Body):
    """An item that stands at a place, if it may be shown at all."""

    item_id: Name
    position: Annotated[int, Field(ge=1, le=200)]
    """1 is first."""
