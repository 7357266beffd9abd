"""Text: items whose words resemble those of the history. Knows new items, needs no events."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
from scipy import sparse

from models.artifacts import load_arrays, load_json, save_arrays, save_json
from models.base import Catalogue, FloatArray, Histories, IntArray, TrainingData
from models.retrieval.block_scores import BlockScores, DenseScores, HistoryBlock
from models.retrieval.dense import DenseRetriever
from models.retrieval.item_search import ItemSearch, built_search
from models.retrieval.item_vectors import ItemVectors
from models.retrieval.matrices import unit_rows
from models.retrieval.sentences import folder_checksum, sentence_vectors
from models.retrieval.tokens import attribute_tokens
from models.retrieval.weighting import Recency

_BUCKETS = 1 << 18
_ENCODER = "encoder"


@dataclass(frozen=True)
class TextConfig:
    """Options of Text."""

    embedding_size: int = 64
    """Dimensions kept by the SVD; fewer when there are fewer items or words."""
    max_features: int = 50_000
    """Most frequent words, character n-grams and attributes that are kept."""
    min_items: int = 2
    """Items a feature must occur in: one that is alone says nothing of resemblance."""
    description_chars: int = 500
    """Characters of the description that are read."""
    word_weight: float = 1.0
    """Share of words and word pairs of all texts."""
    char_weight: float = 0.5
    """Share of character 2- to 4-grams of the title: Chinese, misspellings, inflected words."""
    attribute_weight: float = 1.0
    """Share of brand, tags and each level of the category path."""
    encoder: str = ""
    """Folder of a sentence-transformers model that makes the vectors in place of TF-IDF and SVD."""
    recency: Recency = field(default_factory=Recency)
    """How the events of a history are weighted."""

    def __post_init__(self) -> None:
        if min(self.embedding_size, self.max_features, self.min_items) < 1:
            raise ValueError("embedding_size, max_features and min_items must be at least 1")
        if min(self.word_weight, self.char_weight, self.attribute_weight) < 0:
            raise ValueError("word_weight, char_weight and attribute_weight must be 0 or more")


class Text(DenseRetriever):
    """score_j = cos(decayed mean of the history's vectors, v_j); v from TF-IDF and truncated SVD.

    Latent semantic analysis (Deerwester et al. 1990), the SVD by Halko et al. 2011. Features are
    hashed, so that no vocabulary is kept and `encode` takes texts never seen. Items without text
    have a zero vector and score 0, and so does everything for a history of such items. Cost O(text
    + features x embedding_size).

    With an `encoder` the vectors are those of a sentence-transformers model (Reimers and Gurevych
    2019) over all texts of an item. It stays in its folder, which new items need; its checksum is
    kept here, so that another one is not taken for it.
    """

    name: ClassVar[str] = "text"
    config_class = TextConfig
    config: TextConfig
    _added: FloatArray = np.zeros((0, 0), np.float32)
    _search: ItemSearch | None

    def _fit(self, data: TrainingData, seed: int) -> None:
        self._columns, self._idf = np.zeros(0, np.int32), np.zeros(0, np.float32)
        self._components, self._checksum = np.zeros((0, 0), np.float32), ""
        if self.config.encoder:
            self._checksum = folder_checksum(Path(self.config.encoder))
            self._vectors = self._sentences(data.catalogue)
        else:
            self._learn_words(data, seed)
        self._search = None
        if self.n_items >= self.search_from and self._vectors.shape[1]:
            self._search = built_search(
                self._vectors, lambda some: self._states(HistoryBlock(some)), data, seed
            )

    def _learn_words(self, data: TrainingData, seed: int) -> None:
        counts = self._counts(data.catalogue)
        occurs = np.bincount(counts.indices, minlength=counts.shape[1])  # items that hold a feature
        least = min(self.config.min_items, data.n_items)
        columns = np.flatnonzero(occurs >= least)
        most = np.argsort(-occurs[columns], kind="stable")[: self.config.max_features]
        self._columns = np.sort(columns[most]).astype(np.int32)
        n_items, frequency = data.n_items, occurs[self._columns]
        self._idf = (np.log((1 + n_items) / (1 + frequency)) + 1).astype(np.float32)
        features = self._features(counts)
        size = min(self.config.embedding_size, *features.shape)
        if size == 0 or features.nnz == 0:
            self._components = np.zeros((features.shape[1], 0), dtype=np.float32)
        else:
            # Half a second, which whoever only serves a release does not need.
            from sklearn.utils.extmath import randomized_svd

            _, _, rows = randomized_svd(features, size, n_iter=4, random_state=seed)
            self._components = np.ascontiguousarray(rows.T, dtype=np.float32)
        self._vectors = unit_rows(features @ self._components)  # (I, F) x (F, D) -> (I, D)

    def encode(self, catalogue: Catalogue) -> FloatArray:
        """Return (I, D) unit vectors of any items, also unseen ones; zero without known words."""
        self._require_fitted("encode")
        if self.config.encoder:
            return self._sentences(catalogue)
        return unit_rows(self._features(self._counts(catalogue)) @ self._components)

    def vectors_of(self, items: IntArray) -> FloatArray:
        """Return the (C, D) unit vectors of (C,) items, added ones too; zero for PAD."""
        return ItemVectors(self._vectors, self._added).rows(items)

    def encoder(self) -> "Text":
        """Return the encoder alone, which is small: it scores no item."""
        alone = copy.copy(self)
        alone.n_items, alone._vectors, alone._search = 0, self._vectors[:0].copy(), None
        return alone

    def _extend(self, added: Catalogue) -> None:
        self._added = self.encode(added)

    def _scores(self, histories: Histories) -> FloatArray:
        return self._all_vectors().dots(self._states(HistoryBlock(histories)))

    def _block_scores(self, block: HistoryBlock) -> BlockScores:
        states, vectors = self._states(block), self._all_vectors()
        if self._search is None:
            return DenseScores(self._padded(vectors.dots(states)))
        return block.products(states, vectors, self._search)

    def _all_vectors(self) -> ItemVectors:
        return ItemVectors(self._vectors, self._added)

    def _states(self, block: HistoryBlock) -> FloatArray:
        """Return the (B, D) unit vectors of histories, 0 where nothing in one has a text."""
        vectors = self._all_vectors()
        profile = block.profiles(self.event_weights, self.config.recency, len(vectors))
        return unit_rows(vectors.sums(profile))

    def _save(self, folder: Path) -> None:
        save_arrays(
            folder,
            self.name,
            columns=self._columns,
            idf=self._idf,
            components=self._components,
            vectors=self._vectors,
        )
        if self.config.encoder:
            save_json(folder, _ENCODER, {"sha256": self._checksum})
        if self._search is not None:
            self._search.save(folder)

    def _load(self, folder: Path) -> None:
        arrays = load_arrays(folder, self.name, mmap=True)
        self._columns, self._idf = arrays["columns"], arrays["idf"]
        self._components, self._vectors = arrays["components"], arrays["vectors"]
        self._checksum = load_json(folder, _ENCODER)["sha256"] if self.config.encoder else ""
        self._search = ItemSearch.load(folder)

    def _sentences(self, catalogue: Catalogue) -> FloatArray:
        """Return (I, D) unit vectors of the items' texts by the encoder of the config."""
        texts = [" ".join(row) for row in self._cells(catalogue)]
        folder = Path(self.config.encoder)
        return sentence_vectors(folder, self._checksum, texts, self.device.type)

    def _cells(self, catalogue: Catalogue) -> "zip[tuple[str, ...]]":
        """Return, item by item, all its texts."""
        limit = self.config.description_chars
        return zip(
            catalogue.titles,
            (text[:limit] for text in catalogue.descriptions),
            catalogue.categories,
            catalogue.brands,
            (" ".join(tags) for tags in catalogue.tags),
            strict=True,
        )

    def _counts(self, catalogue: Catalogue) -> sparse.csr_array:
        """Return (I, 3 x buckets) counts: words, character n-grams and attributes side by side."""
        words = [" ".join(row) for row in self._cells(catalogue)]
        blocks = (
            _hashed(words, analyzer="word", ngram_range=(1, 2)),
            _hashed(catalogue.titles, analyzer="char_wb", ngram_range=(2, 4)),
            _hashed(attribute_tokens(catalogue), analyzer=list),
        )
        return sparse.csr_array(sparse.hstack(blocks, format="csr"))

    def _features(self, counts: sparse.csr_array) -> sparse.csr_array:
        """Return (I, F) TF-IDF of the kept columns: log counts, each block scaled to its share."""
        kept = counts[:, self._columns]
        kept.data = (1 + np.log(kept.data)).astype(np.float32)
        kept.data *= self._idf[kept.indices]
        shares = np.sqrt([
            self.config.word_weight,
            self.config.char_weight,
            self.config.attribute_weight,
        ])
        block = self._columns // _BUCKETS  # (F,) which of the three a feature belongs to
        rows = np.repeat(np.arange(kept.shape[0]), np.diff(kept.indptr))
        group = rows * 3 + block[kept.indices]
        squares = np.bincount(group, weights=kept.data.astype(np.float64) ** 2)
        kept.data *= (shares[block[kept.indices]] / np.sqrt(squares[group])).astype(np.float32)
        return kept


def _hashed(
    texts: Sequence[str] | Sequence[list[str]],
    analyzer: str | Callable[[list[str]], list[str]],
    ngram_range: tuple[int, int] = (1, 1),
) -> sparse.csr_matrix:
    from sklearn.feature_extraction.text import HashingVectorizer

    vectorizer = HashingVectorizer(
        n_features=_BUCKETS,
        analyzer=analyzer,
        ngram_range=ngram_range,
        alternate_sign=False,
        norm=None,
        dtype=np.float32,
    )
    return vectorizer.transform(texts)
