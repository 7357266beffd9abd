"""What is bought together: item by item, and where that is too rare to say, by category."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from contracts.errors import CorruptError
from models.artifacts import load_json, save_json
from models.base import PAD, IntArray, TrainingData
from models.ranking.complements import Complements

_ITEMS: Final = "items"
_CATEGORIES: Final = "categories"


@dataclass(frozen=True)
class BoughtTogether:
    """Complements of items and of categories (whole paths), learnt from the same baskets.

    Of two items alone there may never be enough baskets; of their categories there are. `names`
    are the paths that the codes of `categories` stand for, sorted: a snapshot's items are found by
    path, whatever the release's own numbering of them.
    """

    items: Complements
    categories: Complements
    names: tuple[str, ...]

    @classmethod
    def fit(cls, data: TrainingData) -> "BoughtTogether":
        """Learn both from all purchases that were not sent back."""
        names = tuple(sorted(set(data.catalogue.categories) - {""}))
        codes = _codes(names, data.catalogue.categories)
        return cls(Complements.fit(data), Complements.fit_labels(data, codes, len(names)), names)

    def extended(self, n_added: int) -> "BoughtTogether":
        """Return it over so many items more, which nobody bought yet."""
        return replace(self, items=self.items.extended(n_added))

    def codes_of(self, categories: tuple[str, ...]) -> IntArray:
        """Return the code of each category path, PAD where no basket ever held it."""
        return _codes(self.names, categories)

    def save(self, folder: Path) -> None:
        """Write both tables below `folder`."""
        self.items.save(folder / _ITEMS)
        self.categories.save(folder / _CATEGORIES)
        save_json(folder, _CATEGORIES, list(self.names))

    @classmethod
    def load(cls, folder: Path) -> "BoughtTogether":
        """Read what `save` wrote, mapped; raises NotFoundError or CorruptError."""
        items, categories = (Complements.load(folder / name) for name in (_ITEMS, _CATEGORIES))
        names = tuple(str(name) for name in load_json(folder, _CATEGORIES))
        if len(names) != len(categories):
            raise CorruptError(
                f"{folder}: {len(names)} category names for {len(categories)} categories; "
                "fetch the release again"
            )
        return cls(items, categories, names)


def _codes(names: tuple[str, ...], categories: tuple[str, ...]) -> IntArray:
    places = {name: place for place, name in enumerate(names)}
    return np.array([places.get(path, PAD) for path in categories], np.int32)
