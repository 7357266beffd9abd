"""The retrievers by name: one line a model, whose module (and torch) is imported on demand."""

import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from contracts.errors import SettingsError
from models.config import load_config
from models.retrieval.dense import DenseRetriever

_PATHS = {
    "popularity": "models.retrieval.popularity:Popularity",
    "recently_viewed": "models.retrieval.recently_viewed:RecentlyViewed",
    "buy_again": "models.retrieval.buy_again:BuyAgain",
    "item_knn": "models.retrieval.item_knn:ItemKNN",
    "user_knn": "models.retrieval.user_knn:UserKNN",
    "ease": "models.retrieval.ease:EASE",
    "transitions": "models.retrieval.transitions:Transitions",
    "ials": "models.retrieval.ials:IALS",
    "pure_svd": "models.retrieval.pure_svd:PureSVD",
    "attributes": "models.retrieval.attributes:Attributes",
    "text": "models.retrieval.text:Text",
    "item2vec": "models.retrieval.item2vec:Item2Vec",
    "sasrec": "models.retrieval.sasrec:SASRec",
    "bsarec": "models.retrieval.bsarec:BSARec",
    "gru4rec": "models.retrieval.gru4rec:GRU4Rec",
    "nextitnet": "models.retrieval.nextitnet:NextItNet",
    "two_tower": "models.retrieval.two_tower:TwoTower",
    "neumf": "models.retrieval.neumf:NeuMF",
}

DEFAULT_RETRIEVERS = ("popularity", "item_knn", "ease", "transitions", "text", "sasrec")
"""What a training fits where the settings name no retriever; the others are fitted when named."""


class _Retrievers(Mapping[str, type[DenseRetriever]]):
    """Name -> class. Listing names imports nothing; `.values()`, `.items()` import every model."""

    def __getitem__(self, name: str) -> type[DenseRetriever]:
        if name not in _PATHS:
            raise SettingsError(f"unknown retriever '{name}'; known: {sorted(_PATHS)}")
        module, _, attribute = _PATHS[name].partition(":")
        found: type[DenseRetriever] = getattr(importlib.import_module(module), attribute)
        return found

    def __contains__(self, name: object) -> bool:
        return name in _PATHS

    def __iter__(self) -> Iterator[str]:
        return iter(_PATHS)

    def __len__(self) -> int:
        return len(_PATHS)


RETRIEVERS: Mapping[str, type[DenseRetriever]] = _Retrievers()


def make_retriever(name: str, options: Mapping[str, Any]) -> DenseRetriever:
    """Return the unfitted model `name` with `options`.

    Raises SettingsError for an unknown name, an unknown option or a wrong value, naming it and what
    is known.
    """
    cls = RETRIEVERS[name]
    return cls(load_config(cls.config_class, options, where=f"retrievers.{name}"))


def load_retriever(name: str, folder: Path) -> DenseRetriever:
    """Return the fitted model `name` as `save(folder)` left it; large arrays are memory-mapped."""
    return RETRIEVERS[name].load(folder)
