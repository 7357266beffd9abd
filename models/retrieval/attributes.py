"""Attributes: items that share brand, tags and category levels with those of the history."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from models.artifacts import load_arrays, load_csr, save_arrays, save_csr
from models.base import Catalogue, FloatArray, Histories, TrainingData
from models.retrieval.dense import DenseRetriever
from models.retrieval.tokens import KINDS, attribute_tokens
from models.retrieval.weighting import Recency, profiles

_BUCKETS = 1 << 20


@dataclass(frozen=True)
class AttributesConfig:
    """Options of Attributes."""

    category_weight: float = 1.0
    """Weight of each level of the category path."""
    brand_weight: float = 1.0
    """Weight of the brand."""
    tag_weight: float = 1.0
    """Weight of each tag."""
    rarity: float = 1.0
    """Power of log inverse frequency: how much more a rare attribute says."""
    recency: Recency = field(default_factory=Recency)
    """How the events of a history are weighted."""

    def __post_init__(self) -> None:
        weights = (self.category_weight, self.brand_weight, self.tag_weight)
        if min(*weights, self.rarity) < 0 or max(weights) == 0:
            raise ValueError("weights and rarity must be 0 or more, and one weight above 0")


class Attributes(DenseRetriever):
    """score_j = cos(decayed mean of the history's attribute vectors, vector of j).

    The vector-space model of content-based filtering (Pazzani and Billsus 2007): sparse, one
    coordinate an attribute (a level of the category path, the brand, a tag), weight x idf^rarity.
    Attributes are hashed into 2^20 buckets, so that `encode` takes items never seen. Needs no
    events; items without attributes score 0. Size 8 bytes x attributes held; a score costs the
    popularity of the history's attributes.
    """

    name: ClassVar[str] = "attributes"
    config_class = AttributesConfig
    config: AttributesConfig

    def _fit(self, data: TrainingData, seed: int) -> None:
        counts = _hashed(data.catalogue)
        occurs = np.bincount(counts.indices, minlength=counts.shape[1])
        self._columns = np.flatnonzero(occurs).astype(np.int32)
        held = occurs[self._columns]
        idf = (np.log((1 + data.n_items) / (1 + held)) + 1) ** self.config.rarity
        self._weights = idf.astype(np.float32)
        self._vectors = self._encoded(counts)
        self._prepare()

    def encode(self, catalogue: Catalogue) -> sparse.csr_array:
        """Return (I, F) unit vectors of any items, also unseen ones; empty without known words."""
        self._require_fitted("encode")
        return self._encoded(_hashed(catalogue))

    def _encoded(self, counts: sparse.csr_array) -> sparse.csr_array:
        kept = sparse.csr_array(counts[:, self._columns])
        c = self.config
        by_kind = np.array([c.category_weight, c.brand_weight, c.tag_weight], dtype=np.float32)
        # A bucket lies in the third of its kind.
        kinds = (self._columns // (_BUCKETS // len(KINDS) + 1)).astype(np.int64)
        kept.data = self._weights[kept.indices] * by_kind[kinds[kept.indices]]
        kept.eliminate_zeros()
        return _unit(kept)

    def _extend(self, added: Catalogue) -> None:
        rows = sparse.vstack((self._vectors, self.encode(added)), format="csr")
        self._vectors = sparse.csr_array(rows)
        self._prepare()

    def _prepare(self) -> None:
        self._by_feature = sparse.csr_array(self._vectors.T.tocsr())  # (F, I)

    def _scores(self, histories: Histories) -> FloatArray:
        profile = profiles(histories, self.event_weights, self.config.recency, self.size)
        taste = _unit(sparse.csr_array(profile @ self._vectors))  # (B, I) x (I, F) -> (B, F)
        taste.sort_indices()
        scores: FloatArray = (taste @ self._by_feature).toarray()  # (B, F) x (F, I) -> (B, I)
        return scores

    def _save(self, folder: Path) -> None:
        save_csr(folder, "vectors", self._vectors)
        save_arrays(folder, self.name, columns=self._columns, weights=self._weights)

    def _load(self, folder: Path) -> None:
        arrays = load_arrays(folder, self.name, mmap=True)
        self._columns, self._weights = arrays["columns"], arrays["weights"]
        self._vectors = load_csr(folder, "vectors", mmap=True)
        self._prepare()


def _hashed(catalogue: Catalogue) -> sparse.csr_array:
    """Return (I, buckets): which attributes an item has; each kind in its own third."""
    from sklearn.feature_extraction import FeatureHasher

    size = _BUCKETS // len(KINDS) + 1
    hasher = FeatureHasher(size, input_type="string", alternate_sign=False, dtype=np.float32)
    tokens = attribute_tokens(catalogue)
    blocks = [
        hasher.transform([
            [token for token in row if token.startswith(f"{kind}=")] for row in tokens
        ])
        for kind in KINDS
    ]
    return sparse.csr_array(sparse.hstack(blocks, format="csr"))


def _unit(matrix: sparse.csr_array) -> sparse.csr_array:
    """Scale the rows of a sparse matrix to length 1; empty rows stay empty."""
    lengths: NDArray[np.float64] = np.sqrt(matrix.power(2).sum(axis=1, dtype=np.float64))
    row = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    matrix.data = (matrix.data / lengths[row]).astype(np.float32)
    return matrix
