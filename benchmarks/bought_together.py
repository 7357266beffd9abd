"""`python -m benchmarks.bought_together FILE`: do complements find what else is in a basket?

FILE is the Online Retail export (docs/data.md), gzip or plain. What is learnt comes from the first
four fifths of its time. Of each later basket of 3 to 100 items one is hidden, up to five others are
the cart; `hit_at_10` is how often the hidden item is among ten answers. Beside the product's table
(`complements`): what sells (`popularity`), the lift as it is counted, P(ij) / (P(i) P(j)), its
logarithms summed up (`raw_lift`), and how often an item was bought with those of the cart, P(j | i)
summed up (`confidence`), which is no lift: it favours what sells.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import csv
from scipy import sparse

from benchmarks.command import report_of
from contracts import columns as c
from contracts.errors import BadInputError
from contracts.tables import TIMESTAMP
from models.base import FloatArray, IntArray, TrainingData
from models.data import ItemIndex, catalogue_from_arrow, training_data
from models.ranking.complements import Complements
from models.retrieval.matrices import basket_numbers

K: Final = 10
CART: Final = 5
SHARE: Final = 0.8
SIZES: Final = (3, 100)
BASKETS: Final = 2000
_FORMATS: Final = ("%Y-%m-%d %H:%M:%S", "%m/%d/%Y %H:%M")
Answers = Callable[[IntArray], IntArray]


def main(arguments: list[str] | None = None) -> int:
    """Run it, print the table, write the JSON; return 1 when it cannot be run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bought_together")
    parser.add_argument("file", type=Path, help="the Online Retail export")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    options = parser.parse_args(arguments)

    def measured() -> tuple[dict[str, Any], str]:
        report = measure(read_purchases(options.file), seed=options.seed)
        return report, table(report)

    return report_of(measured, options.out)


def table(report: dict[str, Any]) -> str:
    """Return the report as lines of text."""
    told = {name: value for name, value in report.items() if name != "hit_at_10"}
    rows = [f"{name:12} {value:.4f}" for name, value in report["hit_at_10"].items()]
    return "\n".join([str(told), "hit@10", *rows, ""])


def read_purchases(path: Path) -> pa.Table:
    """Return user_id, item_id, event_type and event_timestamp of the export's sales."""
    if not path.is_file():
        raise BadInputError(f"{path}: does not exist; it is the Online Retail export")
    names = ("InvoiceNo", "StockCode", "Quantity", "InvoiceDate", "UnitPrice", "CustomerID")
    kinds = {name: pa.string() for name in names} | {"Quantity": pa.int64()}
    kinds["UnitPrice"] = pa.float64()
    options = csv.ConvertOptions(include_columns=list(names), column_types=kinds)
    lines = csv.read_csv(path, convert_options=options)
    kept = pc.and_(pc.greater(lines["Quantity"], 0), pc.greater(lines["UnitPrice"], 0))
    kept = pc.and_(kept, pc.not_equal(pc.fill_null(lines["CustomerID"], ""), ""))
    kept = pc.and_(kept, pc.invert(pc.starts_with(lines["InvoiceNo"], "C")))
    lines = lines.filter(kept)
    stamps = pc.coalesce(
        *(pc.strptime(lines["InvoiceDate"], form, "us", error_is_null=True) for form in _FORMATS)
    )
    return pa.table({
        c.USER_ID: lines["CustomerID"],
        c.ITEM_ID: lines["StockCode"],
        c.EVENT_TYPE: pa.array(["purchase"] * lines.num_rows),
        c.EVENT_TIMESTAMP: stamps.cast(TIMESTAMP),
    })


def measure(purchases: pa.Table, *, seed: int) -> dict[str, Any]:
    """Return how often each way finds the hidden item; BadInputError without later baskets."""
    catalogue = catalogue_from_arrow(None, purchases[c.ITEM_ID])
    times = np.sort(purchases[c.EVENT_TIMESTAMP].cast(pa.int64()).to_numpy())
    cutoff = int(times[int(SHARE * (len(times) - 1))])
    past = training_data(purchases, catalogue, before_us=cutoff)
    whole = training_data(purchases, catalogue, before_us=None)
    asked = _hidden(whole, cutoff, seed)
    if not asked or not len(past.items):
        raise BadInputError(
            f"no basket of {SIZES[0]} to {SIZES[1]} items in the last fifth, or none before it; "
            "the export must reach over some time"
        )
    began = time.perf_counter()
    complements = Complements.fit(past)
    seconds = time.perf_counter() - began
    ways = {"complements": lambda cart: complements.of(cart).items[:K], **_others(past)}
    hits = {
        name: float(np.mean([hidden in answers(cart) for cart, hidden in asked]))
        for name, answers in ways.items()
    }
    return {
        "seed": seed,
        "purchases": len(past.items),
        "items": len(ItemIndex.of(catalogue)),
        "with_complements": int((np.diff(complements.offsets) > 0).sum()),
        "pairs": len(complements.items),
        "fit_seconds": round(seconds, 2),
        "baskets": len(asked),
        "hit_at_10": {name: round(value, 4) for name, value in hits.items()},
    }


def _hidden(data: TrainingData, cutoff: int, seed: int) -> list[tuple[IntArray, int]]:
    """Return carts and the item hidden of each, at most BASKETS of them."""
    rng = np.random.default_rng(seed)
    numbers = basket_numbers(data.users, data.times)
    starts = np.flatnonzero(np.diff(numbers, prepend=-1))
    asked = []
    for first, last in zip(starts, np.append(starts[1:], len(numbers)), strict=True):
        items = np.unique(data.items[first:last])
        if data.times[first] >= cutoff and SIZES[0] <= len(items) <= SIZES[1]:
            drawn = rng.permutation(items)
            asked.append((drawn[1 : 1 + CART].astype(np.int32), int(drawn[0])))
    chosen = rng.permutation(len(asked))[:BASKETS]
    return [asked[place] for place in chosen.tolist()]


def _others(data: TrainingData) -> dict[str, Answers]:
    """Return the ways that the table is compared with."""
    numbers = basket_numbers(data.users, data.times)
    cells = np.unique(numbers * data.n_items + data.items)
    rows, columns = np.divmod(cells, data.n_items)
    shape = (int(numbers[-1]) + 1, data.n_items)
    matrix = sparse.csr_array((np.ones(len(cells), np.float32), (rows, columns)), shape=shape)
    both = sparse.csr_array(matrix.T @ matrix)
    taken = np.maximum(np.asarray(matrix.sum(axis=0)), 1.0)
    popular = np.argsort(-taken, kind="stable").astype(np.int32)

    def best(cart: IntArray, scores: FloatArray | NDArray[np.float64]) -> IntArray:
        scores[cart] = -np.inf
        return np.argsort(-scores, kind="stable")[:K].astype(np.int32)

    def raw_lift(cart: IntArray) -> IntArray:
        counts = both[cart].toarray()
        lifts = counts * shape[0] / (taken[cart][:, None] * taken)
        return best(cart, np.where(counts > 0, np.log(np.maximum(lifts, 1e-12)), 0.0).sum(axis=0))

    def confidence(cart: IntArray) -> IntArray:
        return best(cart, (both[cart].toarray() / taken[cart][:, None]).sum(axis=0))

    return {
        "popularity": lambda cart: popular[~np.isin(popular, cart)][:K],
        "raw_lift": raw_lift,
        "confidence": confidence,
    }


if __name__ == "__main__":
    sys.exit(main())
