"""The search index of what is served: the snapshot's own, mapped from disk, or one that the worker
builds.
"""

import logging
import threading
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa

from contracts import columns as c
from contracts.errors import AmalgamError
from contracts.settings import SearchSettings
from contracts.state import EMPTY_STATE
from models.base import PAD
from models.data import catalogue_from_arrow
from models.ranking.first_stage import POPULARITY
from models.ranking.inputs import inputs_from_state
from models.search.engine import SearchConfig, SearchIndex
from models.search.filters import ItemFacts
from models.search.stored import SEED, load_index
from services.engine import NONE, Engine
from services.goods import hidden_marks
from services.problems import NoReleaseError
from services.shelf import Shelf

log = logging.getLogger(__name__)


class IndexedShelves:
    """Gives what is searched of an engine. Threads share it."""

    def __init__(self, config: SearchConfig) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._own: _OwnIndex | None = None
        self._view: _View | None = None

    def of(self, engine: Engine) -> Shelf:
        """Return what is searched: the engine's shelf, or the catalogue of a release without one.

        Where it has no index, one is begun in a thread; from when it stands, the shelf has it.

        Raises:
            NoReleaseError: there is neither a release nor a snapshot.
        """
        shelf = engine.shelf
        if shelf is not None and shelf.search is not None:
            self._own = self._view = None
            return shelf
        key = f"release {engine.version}" if shelf is None else shelf.id
        with self._lock:
            own, view = self._own, self._view
            if view is None or view.engine is not engine:
                view = self._view = _View(engine, shelf or catalogue_shelf(engine))
            if own is None or own.key != key:
                own = self._own = _OwnIndex(key, view.shelf.texts, self._config)
            if view.shelf.search is not own.index:
                view.shelf = replace(view.shelf, search=own.index)
            return view.shelf

    def wait(self) -> None:
        """Return when no index is being built."""
        own = self._own
        if own is not None:
            own.thread.join()


def search_config(settings: SearchSettings) -> SearchConfig:
    """Return how an index is searched."""
    synonyms = tuple(tuple(group) for group in settings.synonyms)
    return SearchConfig(dense_weight=settings.dense_weight, synonyms=synonyms)


def with_index(shelf: Shelf, folder: Path, config: SearchConfig) -> Shelf:
    """Return a shelf with the index that was published beside it; without one where it is not
    there or damaged: prices and stock are not held up by it.
    """
    try:
        return replace(shelf, search=load_index(folder, config, shelf.facts))
    except AmalgamError as error:
        log.error("snapshot %s has no search index, so this worker builds one: %s", shelf.id, error)
        return shelf


def catalogue_shelf(engine: Engine) -> Shelf:
    """Return the catalogue of a release as a shelf: all on sale, popular ones by its own model.

    Raises:
        NoReleaseError: there is no release.
    """
    if engine.release is None:
        raise NoReleaseError(
            "no release is loaded and no catalogue snapshot is there; publish one: "
            "amalgam materialize"
        )
    stage = engine.release.recommender.stage
    catalogue, index = stage.catalogue, stage.index
    inputs = inputs_from_state(EMPTY_STATE, 0, index, engine.features)
    popular = stage.ask(inputs).top(POPULARITY, len(index))[0][0]
    n_items = len(catalogue)
    texts = {
        c.ITEM_ID: catalogue.item_ids,
        c.TITLE: catalogue.titles,
        c.DESCRIPTION: catalogue.descriptions,
        c.CATEGORY: catalogue.categories,
        c.BRAND: catalogue.brands,
        c.TAGS: catalogue.tags,
        c.PRICE: catalogue.prices,
    }
    shelf = Shelf(
        id=NONE,
        now=datetime.fromtimestamp(0, UTC),
        index=index,
        titles=catalogue.titles,
        prices=catalogue.prices.astype(np.float64),
        available=np.ones(n_items, bool),
        feature_names=(),
        features=np.empty((n_items, 0), np.float32),
        segments=np.full(n_items, -1, np.int32),
        popular=popular[popular != PAD],
        ages_days=np.full(n_items, np.nan, np.float32),
        texts=pa.table(texts),
        facts=ItemFacts(catalogue),
        popularity=np.zeros((n_items, 2), np.int64),
    )
    return shelf.without(hidden_marks(index, shelf.facts, [engine.rules.hide]))


class _OwnIndex:
    """An index of this worker's own, built in a thread; None until it stands."""

    def __init__(self, key: str, texts: pa.Table, config: SearchConfig) -> None:
        self.key = key
        self.index: SearchIndex | None = None
        self._texts = texts
        self._config = config
        self.thread = threading.Thread(target=self._build, name="search index", daemon=True)
        self.thread.start()

    def _build(self) -> None:
        try:
            catalogue = catalogue_from_arrow(self._texts)
            self.index = SearchIndex.build(catalogue, self._config, SEED)
        # The rung `popularity` goes on answering; the next snapshot brings an index.
        except Exception:
            log.exception("no search index could be built for %s", self.key)


@dataclass
class _View:
    """What is searched of an engine whose shelf has no index."""

    engine: Engine
    shelf: Shelf
