"""Dense retrieval: latent semantic vectors of words and of character n-grams, side by side."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from models.artifacts import load_arrays, save_arrays
from models.base import Catalogue, FloatArray, IntArray
from models.retrieval.matrices import unit_rows
from models.search.lexical import FieldCounts, count_terms
from models.search.terms import grams, terms

SPACES: Final = ("words", "characters")
_SHORTEST_GRAM, _LONGEST_GRAM = 3, 4


@dataclass(frozen=True)
class DenseConfig:
    """Options of DenseIndex."""

    word_size: int = 64
    """Dimensions of the space of words, over all fields: what goes with what."""
    character_size: int = 256
    """Dimensions of the space of character 3- and 4-grams of title and brand: how it is written."""
    max_features: int = 30_000
    """Most frequent features that each space keeps."""
    min_items: int = 2
    """Items a feature must occur in."""

    def __post_init__(self) -> None:
        if min(self.word_size, self.character_size, self.max_features, self.min_items) < 1:
            raise ValueError("sizes, max_features and min_items must be at least 1")


@dataclass(frozen=True)
class Space:
    """One space: feature -> row of `rows` (F, D), scaled by idf; `vectors` (I, D), unit or zero."""

    features: tuple[str, ...]
    rows: FloatArray
    vectors: FloatArray

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.features)}

    def encode(self, features: Iterable[str]) -> FloatArray:
        """Return the (D,) unit vector of a query's features; zero when none is known."""
        numbers = self._numbers
        known = [numbers[feature] for feature in features if feature in numbers]
        vector: FloatArray = self.rows[known].sum(axis=0)
        unit: FloatArray = unit_rows(vector[None])[0]
        return unit


class DenseIndex:
    """score = mean over the spaces of cos(query, item); vectors by TF-IDF and truncated SVD.

    Latent semantic analysis (Deerwester et al. 1990), the SVD by Halko et al. 2011. The query is
    folded in: the sum of its features' rows. Cost of fitting O(text + features x size).
    """

    def __init__(self, spaces: dict[str, Space]) -> None:
        self._spaces = spaces

    @classmethod
    def build(
        cls, catalogue: Catalogue, counts: FieldCounts, config: DenseConfig, seed: int
    ) -> Self:
        """Learn both spaces from a catalogue and its counted fields."""
        words = sparse.csr_array(sum(counts.fields.values()))
        names, characters = _count_grams(catalogue)
        return cls({
            "words": _space(counts.vocabulary, words, config.word_size, config, seed),
            "characters": _space(names, characters, config.character_size, config, seed),
        })

    def encode(self, query_terms: list[str]) -> list[FloatArray]:
        """Return the query's unit vector in each space."""
        features = (query_terms, grams(query_terms, _SHORTEST_GRAM, _LONGEST_GRAM))
        return [self._spaces[name].encode(own) for name, own in zip(SPACES, features, strict=True)]

    def centroid(self, items: IntArray, weights: FloatArray) -> list[FloatArray]:
        """Return the unit vector of the weighted sum of items (Rocchio 1971), by space."""
        return [
            unit_rows((weights @ self._spaces[name].vectors[items])[None])[0] for name in SPACES
        ]

    def scores(self, query: list[FloatArray], items: IntArray | None = None) -> FloatArray:
        """Return the score of each item of `items`, of all when it is None."""
        total = sum(
            (
                (space.vectors if items is None else space.vectors[items]) @ vector
                for space, vector in zip(self._ordered(), query, strict=True)
            ),
            start=np.float32(0.0),
        )
        return np.asarray(total, dtype=np.float32) / np.float32(len(SPACES))

    def save(self, folder: Path) -> None:
        """Write the arrays of both spaces."""
        for name, space in self._spaces.items():
            text = np.frombuffer("\n".join(space.features).encode(), np.uint8)
            save_arrays(folder, name, features=text, rows=space.rows, vectors=space.vectors)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read back what `save` wrote, mapped; raises as load_arrays does."""
        spaces = {}
        for name in SPACES:
            arrays = load_arrays(folder, name, mmap=True)
            text = arrays["features"].tobytes().decode()
            features = tuple(text.split("\n")) if text else ()
            spaces[name] = Space(features, arrays["rows"], arrays["vectors"])
        return cls(spaces)

    def _ordered(self) -> list[Space]:
        return [self._spaces[name] for name in SPACES]


def _count_grams(catalogue: Catalogue) -> tuple[tuple[str, ...], sparse.csr_array]:
    """Return the grams of titles and brands, sorted, and their (I, G) counts."""
    rows = (
        grams(terms(f"{title} {brand}"), _SHORTEST_GRAM, _LONGEST_GRAM)
        for title, brand in zip(catalogue.titles, catalogue.brands, strict=True)
    )
    names, (found,) = count_terms([rows])
    return names, sparse.csr_array(found)


def _space(
    names: tuple[str, ...], counts: sparse.csr_array, size: int, config: DenseConfig, seed: int
) -> Space:
    n_items = counts.shape[0]
    df = np.bincount(counts.indices, minlength=counts.shape[1])
    enough = np.flatnonzero(df >= min(config.min_items, n_items))
    kept = np.sort(enough[np.argsort(-df[enough], kind="stable")[: config.max_features]])
    idf: NDArray[np.float32] = (np.log((1 + n_items) / (1 + df[kept])) + 1).astype(np.float32)
    features = counts[:, kept]
    features.data = (1 + np.log(features.data)).astype(np.float32) * idf[features.indices]
    squares = np.sqrt(np.asarray(features.multiply(features).sum(axis=1)))
    features.data /= np.repeat(squares, np.diff(features.indptr))
    size = min(size, *features.shape)
    if size == 0 or features.nnz == 0:
        components = np.zeros((features.shape[1], 0), dtype=np.float32)
    else:
        # Only whoever builds an index needs it, so that who only searches loads faster.
        from sklearn.utils.extmath import randomized_svd

        _, _, rows = randomized_svd(features, size, n_iter=3, random_state=seed)
        components = np.ascontiguousarray(rows.T, dtype=np.float32)
    return Space(
        tuple(names[number] for number in kept),
        components * idf[:, None],
        unit_rows(features @ components),  # (I, F) x (F, D) -> (I, D)
    )
