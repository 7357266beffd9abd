"""`python -m benchmarks.search DIR`: quality of search on judged queries, by cross-validation.

DIR holds the products (`products_*.json.zip`) and the judgements (`Broad_Query_Set_rated.csv`:
query, docid, rating 0-3). nDCG@10, gain 2^rating - 1, over the queries with a relevant product:
`unjudged_0` counts a product without a judgement as 0, `judged_only` leaves it out of the list.

What is fitted (options of BM25, share of dense retrieval, feedback) is chosen on the queries of the
other folds, by the mean of both figures, so that no query's judgements choose for itself. BM25 and
fused each choose for themselves. Both read the query alike (spelling, compounds).
"""

import argparse
import csv
import itertools
import json
import logging
import sys
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.command import report_of
from contracts.errors import BadInputError
from models.base import Catalogue, FloatArray
from models.evaluation.metrics import ndcg_at_k
from models.retrieval.topk import top_k
from models.search.dense import DenseConfig, DenseIndex
from models.search.engine import Scores, SearchConfig, SearchIndex
from models.search.filters import ItemFacts
from models.search.lexical import LexicalConfig, LexicalIndex, count_fields
from models.search.query import Query

K: Final = 10
FOLDS: Final = 10
FLIPS: Final = 100_000
FIGURES: Final = ("unjudged_0", "judged_only")
LEXICAL: Final = [
    LexicalConfig(title=title, tags=tags, k1=k1, b=0.75)
    for title, tags, k1 in itertools.product((1.0, 2.0), (0.1, 0.3), (0.4, 0.8, 1.2))
]
FUSION: Final = list(itertools.product((0.1, 0.2, 0.3), (0, 10)))
"""Share of dense retrieval, items of feedback."""
_TYPES: Final = ("attr_t_type", "attr_t_product_type")
_FLIPS_AT_ONCE: Final = 10_000
_log = logging.getLogger(__name__)

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Judged:
    """A query, the products that were judged (item_index) and their ratings."""

    query: str
    items: NDArray[np.int64]
    ratings: NDArray[np.int64]


def main(arguments: list[str] | None = None) -> int:
    """Run it, print the table, write the JSON; return 1 when it cannot be run."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    _log.setLevel(logging.INFO)

    def measured() -> tuple[dict[str, Any], str]:
        report = measure(options.folder, seed=options.seed)
        return report, table(report)

    return report_of(measured, options.out)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search", description=__doc__)
    parser.add_argument("folder", type=Path, help="products and judgements")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    return parser


def measure(
    folder: Path,
    *,
    seed: int,
    lexical: list[LexicalConfig] = LEXICAL,
    fusion: list[tuple[float, int]] = FUSION,
    folds: int = FOLDS,
) -> dict[str, Any]:
    """Return nDCG@10 of BM25, dense and fused on queries that chose nothing, and the tests."""
    catalogue = read_products(folder)
    judged = [row for row in read_judgements(folder, catalogue) if row.ratings.any()]
    if len(judged) < folds:
        raise BadInputError(
            f"{folder}: {len(judged)} queries with a relevant product; need {folds}"
        )
    bm25, fused, dense, query_ms = _all_figures(catalogue, judged, lexical, fusion, seed)
    fold = np.random.default_rng(seed).permutation(len(judged)) % folds
    systems = {
        "bm25": cross_validated(bm25, fold),
        "dense": (dense, []),
        "fused": cross_validated(fused, fold),
    }
    options = list(itertools.product(range(len(lexical)), fusion))
    chosen_of_fused = [options[place] for place in systems["fused"][1]]
    return {
        "queries": len(judged),
        "products": len(catalogue),
        "folds": folds,
        "seed": seed,
        "ndcg_at_10": {
            name: dict(zip(FIGURES, figures.mean(axis=1).round(4).tolist(), strict=True))
            for name, (figures, _) in systems.items()
        },
        "tests": _tests(systems["fused"][0], {"bm25": systems["bm25"][0], "dense": dense}, seed),
        "chosen": {
            "bm25": [str(lexical[place]) for place in systems["bm25"][1]],
            "fused": [
                f"{lexical[place]}, {share}, {items}" for place, (share, items) in chosen_of_fused
            ],
        },
        "query_ms": query_ms,
    }


def _all_figures(
    catalogue: Catalogue,
    judged: list[Judged],
    lexical: list[LexicalConfig],
    fusion: list[tuple[float, int]],
    seed: int,
) -> tuple[Vector, Vector, Vector, float]:
    """Return (options, 2, Q) of BM25 and of fused, (2, Q) of dense, and the median query in ms."""
    counts = count_fields(catalogue)
    vectors, facts = DenseIndex.build(catalogue, counts, DenseConfig(), seed), ItemFacts(catalogue)
    bm25, fused = [], []
    for place, config in enumerate(lexical):
        words = LexicalIndex.weigh(counts, config)
        index = SearchIndex(facts, words, vectors, SearchConfig(lexical=config))
        read = [index.read(row.query) for row in judged]
        found = [index.lexical_scores(query) for query in read]
        bm25.append(_figures((scores.lexical for scores in found), judged))
        fused += _fused_figures(index, read, found, judged, fusion)
        _log.info("%d of %d: %s: %s", place + 1, len(lexical), config, bm25[-1].mean(axis=1))
    dense = _figures((index.dense_scores(query) for query in read), judged)
    return np.array(bm25), np.array(fused), dense, _milliseconds(index, judged)


def _fused_figures(
    index: SearchIndex,
    read: list[Query],
    found: list[Scores],
    judged: list[Judged],
    fusion: list[tuple[float, int]],
) -> list[Vector]:
    """Return (2, Q) figures of each fusion; the dense part is taken once for each feedback."""
    base, dense = index.config, {}
    for items in {items for _, items in fusion}:
        index.config = replace(base, feedback_items=items)
        dense[items] = [
            index.resemblance(query, scores.lexical)
            for query, scores in zip(read, found, strict=True)
        ]
    figures = []
    for share, items in fusion:
        index.config = replace(base, dense_weight=share, feedback_items=items)
        parts = zip(read, found, dense[items], strict=True)
        figures.append(_figures((index.fuse(*part) for part in parts), judged))
    return figures


def _figures(scores: Iterator[FloatArray], judged: list[Judged]) -> Vector:
    """Return (2, Q): nDCG@10 with unjudged = 0, and of judged products only."""
    lists, ideal = np.zeros((2, len(judged), K), np.int64), np.zeros((len(judged), K), np.int64)
    for place, (own, row) in enumerate(zip(scores, judged, strict=True)):
        ratings = np.zeros(len(own), np.int64)
        ratings[row.items] = row.ratings
        best = top_k(own[None], min(K, len(own)))[0][0]
        lists[0, place, : len(best)] = ratings[best]
        known = np.sort(row.items)
        among = known[np.argsort(-own[known], kind="stable")][:K]
        lists[1, place, : len(among)] = ratings[among]
        top = np.sort(row.ratings)[::-1][:K]
        ideal[place, : len(top)] = top
    return np.array([ndcg_at_k(grades, ideal, K) for grades in lists])


def cross_validated(figures: Vector, fold: NDArray[np.int64]) -> tuple[Vector, list[int]]:
    """Return (2, Q) figures of (N, 2, Q) options, each query's by the option that is best on the
    other folds (mean of both figures, ties to the first), and the options that were chosen.
    """
    found, chosen = np.zeros(figures.shape[1:]), []
    for number in range(int(fold.max()) + 1):
        held_out = fold == number
        best = int(figures[:, :, ~held_out].mean(axis=(1, 2)).argmax())
        found[:, held_out] = figures[best][:, held_out]
        chosen.append(best)
    return found, chosen


def randomisation_p(first: Vector, second: Vector, *, flips: int, seed: int) -> float:
    """Return the two-sided p of a paired randomisation test (Smucker et al. 2007) of two means.

    The signs of the (Q,) differences are drawn `flips` times; p counts the observed one too.
    """
    differences = first - second
    observed = abs(differences.sum())
    random, as_large, left = np.random.default_rng(seed), 0, flips
    while left > 0:
        drawn = min(left, _FLIPS_AT_ONCE)
        signs = random.integers(0, 2, size=(drawn, len(differences))) * 2 - 1
        as_large += int((np.abs(signs @ differences) >= observed - 1e-12).sum())
        left -= drawn
    return (as_large + 1) / (flips + 1)


def _tests(fused: Vector, parts: dict[str, Vector], seed: int) -> dict[str, Any]:
    return {
        f"fused - {name}": {
            figure: {
                "difference": round(float((fused[row] - part[row]).mean()), 4),
                "p": round(randomisation_p(fused[row], part[row], flips=FLIPS, seed=seed), 5),
                "better": int((fused[row] > part[row]).sum()),
                "worse": int((fused[row] < part[row]).sum()),
            }
            for row, figure in enumerate(FIGURES)
        }
        for name, part in parts.items()
    }


def _milliseconds(index: SearchIndex, judged: list[Judged]) -> float:
    spent = []
    for row in judged:
        started = time.perf_counter()
        index.search(row.query, K)
        spent.append(time.perf_counter() - started)
    return round(float(np.median(spent)) * 1e3, 2)


def read_products(folder: Path) -> Catalogue:
    """Read the products: attributes of text become tags, the product type the category.

    Raises BadInputError when the folder holds none.
    """
    products: list[dict[str, Any]] = []
    for path in sorted(folder.glob("products_*.json.zip")):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                products += json.loads(archive.read(name))
    if not products:
        raise BadInputError(f"{folder}: holds no products_*.json.zip; see the data's README")
    texts = {
        name: tuple(str(product.get(name) or "") for product in products)
        for name in ("id", "title", "name", "supplier", "short_description")
    }
    prices = [product.get("price") for product in products]
    return Catalogue(
        item_ids=texts["id"],
        titles=texts["title"],
        descriptions=tuple(
            f"{name} {text}"
            for name, text in zip(texts["name"], texts["short_description"], strict=True)
        ),
        categories=tuple(_first(product, _TYPES) for product in products),
        brands=texts["supplier"],
        tags=tuple(
            tuple(
                str(value)
                for key, value in product.items()
                if key.startswith("attr_t_") and key not in _TYPES
            )
            for product in products
        ),
        prices=np.array([np.nan if cents is None else cents / 100 for cents in prices], np.float32),
    )


def _first(product: dict[str, Any], names: tuple[str, ...]) -> str:
    return next((str(product[name]) for name in names if product.get(name)), "")


def read_judgements(folder: Path, catalogue: Catalogue) -> list[Judged]:
    """Read the judgements, query by query; raises BadInputError for a product that is not there."""
    path = folder / "Broad_Query_Set_rated.csv"
    if not path.is_file():
        raise BadInputError(f"{path}: does not exist; see the data's README")
    places = {item_id: place for place, item_id in enumerate(catalogue.item_ids)}
    rows: dict[str, dict[int, int]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            if line["docid"] not in places:
                raise BadInputError(f"{path}: judges {line['docid']!r}, which is no product")
            rows.setdefault(line["query"], {})[places[line["docid"]]] = int(line["rating"])
    return [
        Judged(query, np.array(list(found)), np.array(list(found.values())))
        for query, found in rows.items()
    ]


def table(report: dict[str, Any]) -> str:
    """Return the report as text."""
    lines = [
        f"nDCG@10, {report['queries']} queries, {report['products']:,} products, "
        f"{report['folds']} folds, seed {report['seed']}",
        f"{'system':<8}{'unjudged = 0':>14}{'judged only':>14}",
    ]
    for name, figures in report["ndcg_at_10"].items():
        lines.append(f"{name:<8}" + "".join(f"{figures[figure]:>14.4f}" for figure in FIGURES))
    for name, found in report["tests"].items():
        for figure, test in found.items():
            lines.append(
                f"{name}, {figure}: {test['difference']:+.4f}, p = {test['p']:.5f} "
                f"({test['better']} queries better, {test['worse']} worse)"
            )
    return "\n".join([*lines, f"a query: {report['query_ms']} ms (median)", ""])


if __name__ == "__main__":
    sys.exit(main())
