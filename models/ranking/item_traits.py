"""What caps, variety and variants look at, of every item of a catalogue, as codes."""

from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from contracts import columns as c
from models.base import FloatArray, IntArray
from models.categories import category_levels
from models.columns import as_one
from models.ranking.diversity import word_vectors
from models.ranking.variants import variant_codes


class ItemTraits:
    """Categories, brands, variants and words of I items, by their place in a table of texts.

    Made of Arrow columns, so that a large catalogue costs no Python loop; what a request may not
    need is made at the first use.
    """

    def __init__(self, texts: pa.Table) -> None:
        """`texts` holds item by item title, category and brand; null is taken for ""."""
        self._titles, self._paths, self._brands = (
            _filled(texts[name]) for name in (c.TITLE, c.CATEGORY, c.BRAND)
        )
        self._by_level: dict[int, IntArray] = {}

    @cached_property
    def brands(self) -> IntArray:
        """Code of each item's brand, (I,) int32, -1 without one."""
        encoded = pc.dictionary_encode(self._brands)
        unnamed = np.asarray(pc.equal(encoded.dictionary, ""), bool)
        codes = np.asarray(encoded.indices, dtype=np.int32)
        codes = np.where(np.append(unnamed, True)[codes], np.int32(-1), codes)
        return codes

    @cached_property
    def variants(self) -> IntArray:
        """Group of each item's variants, (I,) int32, -1 without any (`variant_codes`)."""
        return variant_codes(self._titles, self._brands, self._paths)

    def categories(self, level: int = 0) -> IntArray:
        """Return the code of each item's category, (I,) int32, -1 without one.

        `level` 0 is the whole path, 1 its top; a path that ends before counts as a whole.
        """
        if (held := self._by_level.get(level)) is not None:
            return held
        codes, levels = self._category_levels
        if levels.shape[1] == 0:
            return np.full(len(codes), -1, np.int32)
        depths = (levels >= 0).sum(axis=1)
        column = np.maximum(np.minimum(depths, level or levels.shape[1]) - 1, 0)
        of_path = levels[np.arange(len(levels)), column]
        found: IntArray = of_path[codes]
        self._by_level[level] = found
        return found

    def levels(self, places: NDArray[Any]) -> IntArray:
        """Return codes of the beginnings of the category paths of (C,) items, (C, N) int32,
        shortest first, -1 after the end.
        """
        codes, levels = self._category_levels
        found: IntArray = levels[codes[places]]
        return found

    def words(self, places: NDArray[Any]) -> FloatArray:
        """Return which words of their titles (C,) items hold, (C, W) rows (`word_vectors`)."""
        codes, offsets = self._title_words
        starts, lengths = offsets[places], offsets[places + 1] - offsets[places]
        owners = np.repeat(np.arange(len(places)), lengths)
        first = np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)
        return word_vectors(codes[first + np.arange(len(owners))], owners, len(places))

    @cached_property
    def _category_levels(self) -> tuple[IntArray, IntArray]:
        """Codes of paths (I,), and of the beginnings of each path (G, depth)."""
        encoded = pc.dictionary_encode(self._paths)
        paths = [category_levels(path) for path in encoded.dictionary.to_pylist()]
        numbers: dict[str, int] = {}
        levels = np.full((len(paths), max(map(len, paths), default=0)), -1, np.int32)
        for row, beginnings in enumerate(paths):
            for column, text in enumerate(beginnings):
                levels[row, column] = numbers.setdefault(text, len(numbers))
        return np.asarray(encoded.indices, dtype=np.int32), levels

    @cached_property
    def _title_words(self) -> tuple[IntArray, NDArray[np.int64]]:
        plain = pc.replace_substring_regex(pc.utf8_lower(self._titles), r"[\p{P}\p{S}\s]+", " ")
        split = pc.split_pattern(pc.utf8_trim_whitespace(plain), " ")
        words = pc.dictionary_encode(split.flatten())
        return np.asarray(words.indices, np.int32), np.asarray(split.offsets, np.int64)


def _filled(column: pa.ChunkedArray) -> pa.Array:
    if not pa.types.is_large_string(column.type):
        column = pc.cast(column, pa.string())
    return pc.fill_null(as_one(column), "")
