"""BM25F over an inverted index in arrays: which items hold a term, and what it is worth there."""

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from models.artifacts import load_arrays, save_arrays
from models.base import Catalogue, FloatArray, IntArray
from models.search.terms import terms

_SEPARATOR = "\n"


@dataclass(frozen=True)
class LexicalConfig:
    """Options of LexicalIndex: what a term is worth in each field, and how it saturates."""

    title: float = 1.0
    """Weight of a term in the title."""
    brand: float = 1.0
    """Weight of a term in the brand or supplier."""
    category: float = 1.0
    """Weight of a term in the category path."""
    tags: float = 0.3
    """Weight of a term in the tags and attributes."""
    description: float = 1.0
    """Weight of a term in the description."""
    k1: float = 0.8
    """Saturation: how much a term that occurs again adds."""
    b: float = 0.75
    """How much longer fields are held against an item, 0 to 1."""

    def __post_init__(self) -> None:
        if min(self.title, self.brand, self.category, self.tags, self.description) < 0:
            raise ValueError("field weights must be 0 or more")
        if self.k1 <= 0 or not 0 <= self.b <= 1:
            raise ValueError(f"k1 = {self.k1} must be above 0, b = {self.b} in 0 to 1")


FIELDS = tuple(field.name for field in fields(LexicalConfig) if field.name not in {"k1", "b"})


class LexicalIndex:
    """I items by V terms; each term's items and impacts lie side by side (CSC).

    impact = idf * f (k1 + 1) / (k1 + f), f = sum over fields of weight * count / (1 - b + b *
    length / mean length): BM25F (Robertson and Zaragoza 2009, section 3.6) with the idf that stays
    above 0, log(1 + (I - df + 1/2) / (df + 1/2)).

    vocabulary  the terms, in byte order       indptr   (V + 1,) int64
    items       (nnz,) int32, rising in a term impacts  (nnz,) float32
    """

    name: ClassVar[str] = "lexical"

    def __init__(
        self, vocabulary: Sequence[str], n_items: int, postings: Mapping[str, NDArray[Any]]
    ) -> None:
        self.vocabulary = tuple(vocabulary)
        self.n_items = n_items
        self.indptr = postings["indptr"]
        self.items: IntArray = postings["items"]
        self.impacts: FloatArray = postings["impacts"]
        self._numbers = {term: number for number, term in enumerate(self.vocabulary)}

    @classmethod
    def build(cls, catalogue: Catalogue, config: LexicalConfig) -> Self:
        """Index a catalogue; an empty one has no terms."""
        return cls.weigh(count_fields(catalogue), config)

    @classmethod
    def weigh(cls, counts: "FieldCounts", config: LexicalConfig) -> Self:
        """Turn counts into impacts; the counts serve for other weights again."""
        n_items = counts.n_items
        total = sparse.csc_array((n_items, len(counts.vocabulary)), dtype=np.float64)
        for name, matrix in counts.fields.items():
            weight = getattr(config, name)
            if weight == 0 or matrix.nnz == 0:
                continue
            lengths = matrix.sum(axis=1, dtype=np.float64)  # (I,)
            norm = 1 - config.b + config.b * lengths / lengths.mean()
            factors = weight / np.maximum(norm, np.finfo(np.float64).tiny)
            scaled = matrix.copy()
            scaled.data = matrix.data * factors[matrix.indices]
            total = total + scaled
        total = sparse.csc_array(total)
        total.sort_indices()
        df = np.diff(total.indptr)
        idf = np.log1p((n_items - df + 0.5) / (df + 0.5))
        saturated = total.data * (config.k1 + 1) / (config.k1 + total.data)
        return cls(
            counts.vocabulary,
            n_items,
            {
                "indptr": total.indptr.astype(np.int64),
                "items": total.indices.astype(np.int32),
                "impacts": (saturated * np.repeat(idf, df)).astype(np.float32),
            },
        )

    def number(self, term: str) -> int | None:
        """Return the number of a term that some item holds, else None."""
        found = self._numbers.get(term)
        return found if found is not None and self.frequency(found) else None

    def frequency(self, number: int) -> int:
        """Return how many items hold a term."""
        return int(self.indptr[number + 1] - self.indptr[number])

    def frequencies(self) -> NDArray[np.int64]:
        """Return how many items hold each term, (V,)."""
        return np.diff(self.indptr)

    def postings(self, number: int) -> tuple[IntArray, FloatArray]:
        """Return the items that hold a term, rising, and its impact in each."""
        part = slice(int(self.indptr[number]), int(self.indptr[number + 1]))
        return self.items[part], self.impacts[part]

    def save(self, folder: Path) -> None:
        """Write the arrays; the vocabulary as one array of bytes."""
        text = np.frombuffer(_SEPARATOR.join(self.vocabulary).encode(), np.uint8)
        save_arrays(
            folder,
            self.name,
            vocabulary=text,
            n_items=np.array([self.n_items]),
            indptr=self.indptr,
            items=self.items,
            impacts=self.impacts,
        )

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read back what `save` wrote; postings stay on disk, mapped. Raises as load_arrays."""
        arrays = load_arrays(folder, cls.name, mmap=True)
        text = arrays["vocabulary"].tobytes().decode()
        return cls(text.split(_SEPARATOR) if text else (), int(arrays["n_items"][0]), arrays)


@dataclass(frozen=True)
class FieldCounts:
    """How often each of V terms occurs in each field of I items: CSC matrices (I, V) by field."""

    vocabulary: tuple[str, ...]
    n_items: int
    fields: dict[str, sparse.csc_array]


def count_fields(catalogue: Catalogue) -> FieldCounts:
    """Count the terms of each field."""
    texts: dict[str, Iterable[str]] = {
        "title": catalogue.titles,
        "brand": catalogue.brands,
        "category": catalogue.categories,
        "tags": (" \n ".join(tags) for tags in catalogue.tags),
        "description": catalogue.descriptions,
    }
    vocabulary, counted = count_terms([map(terms, texts[name]) for name in FIELDS])
    fields = {name: sparse.csc_array(matrix) for name, matrix in zip(FIELDS, counted, strict=True)}
    return FieldCounts(vocabulary, len(catalogue), fields)


def count_terms(
    groups: Sequence[Iterable[Sequence[str]]],
) -> tuple[tuple[str, ...], list[sparse.coo_array]]:
    """Return the terms of all groups of rows, in byte order, and the (rows, terms) occurrences of
    each group, float32 ones; a term that occurs twice in a row is there twice.

    Rows are read one at a time, so memory is that of the result, four bytes an occurrence.
    """
    numbers: dict[str, int] = {}
    found: list[tuple[array[int], array[int]]] = []
    for rows in groups:
        codes, sizes = array("i"), array("i")
        for row in rows:
            codes.extend([numbers.setdefault(term, len(numbers)) for term in row])
            sizes.append(len(row))
        found.append((codes, sizes))
    vocabulary = tuple(sorted(numbers))
    places = np.empty(len(vocabulary), dtype=np.int32)
    places[[numbers[term] for term in vocabulary]] = np.arange(len(vocabulary), dtype=np.int32)
    return vocabulary, [_occurrences(places, codes, sizes) for codes, sizes in found]


def _occurrences(
    places: NDArray[np.int32], codes: "array[int]", sizes: "array[int]"
) -> sparse.coo_array:
    columns = places[np.asarray(codes, np.int32)]
    rows = np.repeat(np.arange(len(sizes), dtype=np.int32), np.asarray(sizes, np.int32))
    shape = (len(sizes), len(places))
    return sparse.coo_array((np.ones(len(columns), np.float32), (rows, columns)), shape=shape)
