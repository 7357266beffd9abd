"""What the peers do in `python -m benchmarks.training`; run by the Python of a venv that has them.

    python training_peers.py NAME DATA.npz OPTIONS_JSON OUT.npz

DATA holds the training events in time order: `users`, `items` (N,), and `n_users`, `n_items`. OUT
gets `seconds`, the time of the fit alone, and what the kind of measurement needs: `lists` (U, 10)
item numbers without those of the own events, or `sequences`, how many were trained on. It imports
nothing of ours, so that the peers' pins and ours need not agree.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

K = 10
Arrays = dict[str, Any]


def ials(data: Arrays, options: dict[str, Any]) -> Arrays:
    """Fit implicit's AlternatingLeastSquares and recommend to every user."""
    from implicit.cpu.als import AlternatingLeastSquares

    matrix = _matrix(data)
    threads = options.pop("threads")
    model = AlternatingLeastSquares(num_threads=threads, **options)
    began = time.perf_counter()
    model.fit(matrix, show_progress=False)
    seconds = time.perf_counter() - began
    lists, _ = model.recommend(
        np.arange(matrix.shape[0]), matrix, N=K, filter_already_liked_items=True
    )
    return {"seconds": seconds, "lists": lists}


def ease(data: Arrays, options: dict[str, Any]) -> Arrays:
    """Fit RecTools' EASEModel."""
    from rectools.models import EASEModel

    return {"seconds": _fit(EASEModel(**options), data)}


def item_knn(data: Arrays, options: dict[str, Any]) -> Arrays:
    """Fit RecTools' wrapper of implicit's CosineRecommender."""
    from implicit.nearest_neighbours import CosineRecommender
    from rectools.models import ImplicitItemKNNWrapperModel

    return {"seconds": _fit(ImplicitItemKNNWrapperModel(CosineRecommender(**options)), data)}


def sasrec(data: Arrays, options: dict[str, Any]) -> Arrays:
    """Train RecTools' SASRecModel; the seconds are of `epochs` epochs less those of one."""
    import logging
    import warnings

    from pytorch_lightning import Trainer
    from rectools.models import SASRecModel

    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    epochs = options.pop("epochs")

    def seconds_of(count: int) -> float:
        def trainer() -> Any:
            return Trainer(
                max_epochs=count,
                accelerator="cpu",
                devices=1,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )

        return _fit(SASRecModel(get_trainer_func=trainer, **options), data)

    seconds = seconds_of(epochs) - seconds_of(1)
    lengths = np.bincount(data["users"], minlength=int(data["n_users"]))
    return {"seconds": seconds, "sequences": int((lengths > 1).sum()) * (epochs - 1)}


PEERS: dict[str, Callable[[Arrays, dict[str, Any]], Arrays]] = {
    "ials": ials,
    "ease": ease,
    "item_knn": item_knn,
    "sasrec": sasrec,
}


def _matrix(data: Arrays) -> Any:
    from scipy import sparse

    shape = (int(data["n_users"]), int(data["n_items"]))
    ones = np.ones(len(data["users"]), dtype=np.float32)
    matrix = sparse.csr_matrix((ones, (data["users"], data["items"])), shape=shape)
    matrix.data[:] = 1.0
    return matrix


def _fit(model: Any, data: Arrays) -> float:
    import pandas as pd
    from rectools import Columns
    from rectools.dataset import Dataset

    times = pd.Timestamp("2020-01-01") + pd.to_timedelta(np.arange(len(data["users"])), unit="min")
    frame = pd.DataFrame({
        Columns.User: data["users"],
        Columns.Item: data["items"],
        Columns.Weight: 1.0,
        Columns.Datetime: times,
    })
    dataset = Dataset.construct(frame)
    began = time.perf_counter()
    model.fit(dataset)
    return time.perf_counter() - began


def main() -> None:
    """Run one peer, as the module says."""
    name, source, options, out = sys.argv[1:]
    with np.load(Path(source), allow_pickle=False) as file:
        data = dict(file)
    np.savez(Path(out), **PEERS[name](data, json.loads(options)))


if __name__ == "__main__":
    main()
