"""`python -m benchmarks.training FILE`: training beside the peers', as ratios in one run.

Ours and the peers' fits alternate, each in a process of its own, with the same number of threads,
on all but the last item of each sequence. iALS's options, ours and implicit's alike, are chosen on
the item before the last; its NDCG@10 is of the last item. EASE, item-kNN and SASRec are compared at
equal size: the same lambda, neighbours, width, blocks, length, batch and full softmax. `frame` has
no peer: candidates and ranker frame for 10,000 to 1,000,000 queries.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.command import report_of
from benchmarks.quality_sequences import WEIGHTS, Sequences, read_sequences
from contracts.errors import NotFoundError, UnavailableError
from models.base import IntArray
from models.registry import make_retriever
from models.retrieval.topk import top_k

PEERS: Final = Path(__file__).with_name("training_peers.py")
K: Final = 10
NO_DECAY: Final = {"basket_decay": 1.0, "half_life_days": 1e6}
"""A history counts evenly, as it does for the peers."""
SIZE: Final = 64
EPOCHS: Final = 12
OUR_GRID: Final = tuple(
    {"unobserved_weight": weight, "reg": reg}
    for weight, reg in product((0.003, 0.01, 0.03), (0.001, 0.003, 0.01))
)
THEIR_GRID: Final = tuple(
    {"alpha": alpha, "regularization": reg}
    for alpha, reg in product((1.0, 10.0, 100.0), (0.01, 0.1, 1.0))
)
QUERIES: Final = (10_000, 100_000, 1_000_000)
SEQUENCE: Final = {"width": 128, "blocks": 2, "heads": 2, "length": 50, "batch": 128, "epochs": 2}


def main(arguments: list[str] | None = None) -> int:
    """Compare, print a line a model, write JSON; return 1 when it cannot be run."""
    options = _parser().parse_args(arguments)
    if options.one:
        return _child(*options.one)

    def measure() -> tuple[dict[str, Any], str]:
        report = compare(
            options.file,
            peers=options.peers,
            rounds=options.rounds,
            seed=options.seed,
            only=options.only,
            users=options.users,
        )
        lines = [json.dumps({"model": name, **found}) for name, found in report["models"].items()]
        return report, "".join(f"{line}\n" for line in lines)

    return report_of(measure, options.out)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.add_argument(
        "file", type=Path, nargs="?", help="sequences: a line is a user, then items"
    )
    parser.add_argument(
        "--peers",
        type=Path,
        default=Path(".venv-peers/bin/python"),
        help="Python of a venv with implicit, rectools[torch] and the same torch",
    )
    parser.add_argument("--users", type=int, help="only so many of the file's users, its first")
    parser.add_argument("--rounds", type=int, default=3, help="fits of each; the median counts")
    parser.add_argument("--only", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    return parser


class Contest:
    """Runs ours and a peer's fit of one data set, each in a process of its own."""

    def __init__(self, peers: Path, folder: Path, seed: int) -> None:
        if not peers.is_file():
            raise NotFoundError(
                f"{peers}: no Python there; make the venv: python3.11 -m venv .venv-peers && "
                '.venv-peers/bin/pip install torch==2.13.0 "rectools[torch]" implicit'
            )
        self.peers, self.folder, self.seed = peers, folder, seed
        self.threads = os.cpu_count() or 1

    def data(self, sequences: Sequences, held: int) -> Path:
        """Write all but the last `held` items of each sequence, in time order."""
        path = self.folder / f"without-{held}.npz"
        if not path.exists():
            events = sequences.training(held)
            order = np.argsort(events.times, kind="stable")
            np.savez(
                path,
                users=events.users[order],
                items=events.items[order],
                times=events.times[order],
                now=events.now,
                n_users=events.n_users,
                n_items=events.n_items,
            )
        return path

    def ours(self, name: str, data: Path, options: Mapping[str, Any]) -> dict[str, Any]:
        """Fit our model."""
        command = [sys.executable, "-m", "benchmarks.training", "--one"]
        return self._run(command, name, data, {"seed": self.seed, **options})

    def theirs(self, name: str, data: Path, options: Mapping[str, Any]) -> dict[str, Any]:
        """Fit the peer's."""
        return self._run([str(self.peers), str(PEERS)], name, data, options)

    def _run(
        self, command: list[str], name: str, data: Path, options: Mapping[str, Any]
    ) -> dict[str, Any]:
        threads = {key: str(self.threads) for key in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")} | {
            "OPENBLAS_NUM_THREADS": str(self.threads if name in {"ease", "sasrec"} else 1)
        }
        out = self.folder / "out.npz"
        done = subprocess.run(
            [*command, name, str(data), json.dumps(dict(options)), str(out)],
            env={**os.environ, **threads},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise UnavailableError(f"{command[0]} {name}: {done.stderr.strip()[-2000:]}")
        with np.load(out, allow_pickle=False) as file:
            return dict(file)

    def race(
        self,
        name: str,
        data: Path,
        ours: Mapping[str, Any],
        theirs: Mapping[str, Any],
        rounds: int,
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Fit both in turn, `rounds` times."""
        pairs = [
            (self.ours(name, data, ours), self.theirs(name, data, theirs)) for _ in range(rounds)
        ]
        return [mine for mine, _ in pairs], [other for _, other in pairs]


def compare(
    file: Path | None,
    *,
    peers: Path,
    rounds: int,
    seed: int,
    only: Sequence[str],
    users: int | None = None,
) -> dict[str, Any]:
    """Return what `python -m benchmarks.training` prints, model by model.

    Raises NotFoundError for a missing file or venv, UnavailableError when a fit failed.
    """
    if file is None:
        raise NotFoundError("no sequence file was given; a line is a user, then items in order")
    sequences = read_sequences(file)
    if users is not None:
        kept = sequences.offsets[: users + 1]
        sequences = replace(sequences, items=sequences.items[: kept[-1]], offsets=kept)
    with tempfile.TemporaryDirectory() as folder:
        contest = Contest(peers, Path(folder), seed)
        models = {name: MODELS[name](contest, sequences, rounds) for name in only}
        return {
            "dataset": f"{file.parent.name}/{file.name}",
            "users": sequences.n_users,
            "items": len(sequences.catalogue),
            "threads": contest.threads,
            "rounds": rounds,
            "seed": seed,
            "models": models,
        }


def _ials(contest: Contest, sequences: Sequences, rounds: int) -> dict[str, Any]:
    ours = {
        "embedding_size": SIZE,
        "epochs": EPOCHS,
        "recency": NO_DECAY,
        "cold_start": False,  # the peer has no such part
    }
    theirs = {
        "factors": SIZE,
        "iterations": EPOCHS,
        "random_state": contest.seed,
        "threads": contest.threads,
    }
    part, whole = contest.data(sequences, 2), contest.data(sequences, 1)

    def best(run: Any, fixed: Mapping[str, Any], grid: Sequence[Mapping[str, Any]]) -> Any:
        found = [
            ndcg(run("ials", part, {**fixed, **options})["lists"], sequences, held=2)
            for options in grid
        ]
        return {**fixed, **grid[int(np.argmax(found))]}

    ours, theirs = best(contest.ours, ours, OUR_GRID), best(contest.theirs, theirs, THEIR_GRID)
    mine, others = contest.race("ials", whole, ours, theirs, rounds)
    quality = [ndcg(run[0]["lists"], sequences, held=1) for run in (mine, others)]
    return {
        **_times(mine, others),
        "ndcg@10": round(quality[0], 5),
        "peer_ndcg@10": round(quality[1], 5),
        "ndcg_ratio": round(quality[0] / quality[1], 4),
        "options": ours,
        "peer_options": theirs,
    }


def _ease(contest: Contest, sequences: Sequences, rounds: int) -> dict[str, Any]:
    data = contest.data(sequences, 1)
    theirs = {"regularization": 100.0, "num_threads": contest.threads}
    return _times(*contest.race("ease", data, {"reg": 100.0}, theirs, rounds))


def _item_knn(contest: Contest, sequences: Sequences, rounds: int) -> dict[str, Any]:
    data = contest.data(sequences, 1)
    theirs = {"K": 200, "num_threads": contest.threads}
    ours = {"n_neighbours": 200, "shrink": 0.0}
    return _times(*contest.race("item_knn", data, ours, theirs, rounds))


def _sasrec(contest: Contest, sequences: Sequences, rounds: int) -> dict[str, Any]:
    shape, data = SEQUENCE, contest.data(sequences, 1)
    ours = {
        "embedding_size": shape["width"],
        "layers": shape["blocks"],
        "heads": shape["heads"],
        "max_length": shape["length"],
        "max_windows": 1,
        "events_per_epoch": 1 << 40,
        "batch_size": shape["batch"],
        "epochs": shape["epochs"],
        "dropout": 0.2,
        "n_negatives": len(sequences.catalogue),
        "patience": 0,
        "cold_start": False,  # the peer has no such part
        "device": "cpu",
    }
    theirs = {
        "n_factors": shape["width"],
        "n_blocks": shape["blocks"],
        "n_heads": shape["heads"],
        "session_max_len": shape["length"],
        "batch_size": shape["batch"],
        "epochs": shape["epochs"],
        "dropout_rate": 0.2,
        "loss": "softmax",
    }
    mine, others = contest.race("sasrec", data, ours, theirs, rounds)
    speed = [
        statistics.median(float(run["sequences"] / run["seconds"]) for run in runs)
        for runs in (mine, others)
    ]
    return {
        "sequences_per_second": round(speed[0], 1),
        "peer_sequences_per_second": round(speed[1], 1),
        "ratio": round(speed[0] / speed[1], 2),
        **shape,
    }


def _frame(contest: Contest, sequences: Sequences, rounds: int) -> dict[str, Any]:
    from benchmarks.frame_growth import growth

    return growth(sequences, QUERIES, contest.seed)


MODELS: Final = {
    "ials": _ials,
    "ease": _ease,
    "item_knn": _item_knn,
    "sasrec": _sasrec,
    "frame": _frame,
}


def _times(
    mine: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    ours, theirs = (
        statistics.median(float(run["seconds"]) for run in runs) for runs in (mine, others)
    )
    return {
        "fit_seconds": round(ours, 3),
        "peer_fit_seconds": round(theirs, 3),
        "times_peer": round(ours / theirs, 3),
    }


def ndcg(lists: IntArray, sequences: Sequences, held: int) -> float:
    """Return the mean NDCG@10 of (U, 10) lists of all users for the `held`-th item from the end."""
    users = sequences.has_target(held)
    hits = lists[users, :K] == sequences.targets(users, held)[:, None]
    found = np.where(hits.any(axis=1), 1.0 / np.log2(hits.argmax(axis=1) + 2.0), 0.0)
    return float(found.mean())


def _child(name: str, source: str, options: str, out: str) -> int:
    """Fit one of our models in this process, and write what the parent measures."""
    from models.base import Catalogue, TrainingData

    chosen = json.loads(options)
    seed = int(chosen.pop("seed"))
    with np.load(source, allow_pickle=False) as file:
        held = dict(file)
    n_items = int(held["n_items"])
    order = np.lexsort((held["times"], held["users"]))
    blank = ("",) * n_items
    data = TrainingData(
        users=held["users"][order],
        items=held["items"][order],
        event_types=np.full(len(order), WEIGHTS.argmax(), dtype=np.int8),
        times=held["times"][order],
        n_users=int(held["n_users"]),
        catalogue=Catalogue(
            item_ids=tuple(map(str, range(n_items))),
            titles=blank,
            descriptions=blank,
            categories=blank,
            brands=blank,
            tags=((),) * n_items,
            prices=np.full(n_items, np.nan, dtype=np.float32),
        ),
        now=int(held["now"]),
    )
    found: dict[str, Any] = {}
    if name == "sasrec":
        epochs = chosen["epochs"]
        found["seconds"] = _fit_seconds(name, chosen, data, seed) - _fit_seconds(
            name, {**chosen, "epochs": 1}, data, seed
        )
        lengths = np.bincount(data.users, minlength=data.n_users)
        found["sequences"] = int((lengths > 1).sum()) * (epochs - 1)
    else:
        model = make_retriever(name, chosen)
        began = time.perf_counter()
        model.fit(data, event_weights=WEIGHTS, seed=seed)
        found["seconds"] = time.perf_counter() - began
        if name == "ials":
            found["lists"] = _lists(model, data)
    np.savez(out, **found)
    return 0


def _fit_seconds(name: str, options: Mapping[str, Any], data: Any, seed: int) -> float:
    model = make_retriever(name, options)
    began = time.perf_counter()
    model.fit(data, event_weights=WEIGHTS, seed=seed)
    return time.perf_counter() - began


def _lists(model: Any, data: Any) -> NDArray[np.int32]:
    """Return every user's (U, 10) list from the own events, without them."""
    from models.base import PAD, Histories

    lengths = np.bincount(data.users, minlength=data.n_users)
    first = np.cumsum(lengths) - lengths
    lists = np.full((data.n_users, K), PAD, dtype=np.int32)
    for start in range(0, data.n_users, 1024):
        rows = np.arange(start, min(start + 1024, data.n_users))
        places = np.arange(int(lengths[rows].max(initial=0)))
        inside = places < lengths[rows, None]
        at = np.where(inside, first[rows, None] + places, 0)
        items = np.where(inside, data.items[at], np.int32(PAD))
        ages = np.where(inside, lengths[rows, None] - places, 0).astype(np.float32)
        types = np.where(inside, data.event_types[at], 0).astype(np.int8)
        scores = model.score_all(Histories(items, types, ages))
        lists[rows] = top_k(scores, K, items)[0]
    return lists


if __name__ == "__main__":
    sys.exit(main())
