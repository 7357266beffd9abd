"""What a catalogue says of an item in so many words: category levels, brand, tags."""

from typing import Final

from models.base import Catalogue
from models.categories import category_levels

KINDS: Final = ("category", "brand", "tag")
"""What a token begins with, before its "="."""


def attribute_tokens(catalogue: Catalogue) -> list[list[str]]:
    """Return each item's brand, tags and every prefix of its category `a > b > c`, as tokens."""
    found = []
    for brand, category, tags in zip(
        catalogue.brands, catalogue.categories, catalogue.tags, strict=True
    ):
        tokens = [f"category={beginning}" for beginning in category_levels(category)]
        tokens += [f"brand={brand}"] if brand else []
        found.append(tokens + [f"tag={tag}" for tag in tags])
    return found
