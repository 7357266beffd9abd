"""What a catalogue says of an item in so many words: category levels, brand, tags."""

from typing import Final

from models.base import Catalogue

KINDS: Final = ("category", "brand", "tag")
"""What a token begins with, before its "="."""


def attribute_tokens(catalogue: Catalogue) -> list[list[str]]:
    """Return each item's brand, tags and every prefix of its category `a > b > c`, as tokens."""
    found = []
    for brand, category, tags in zip(
        catalogue.brands, catalogue.categories, catalogue.tags, strict=True
    ):
        levels = [level.strip() for level in category.split(">") if level.strip()]
        tokens = [f"category={' > '.join(levels[: n + 1])}" for n in range(len(levels))]
        tokens += [f"brand={brand}"] if brand else []
        found.append(tokens + [f"tag={tag}" for tag in tags])
    return found
