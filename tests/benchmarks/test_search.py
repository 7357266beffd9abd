"""The benchmark of search: figures by hand, folds that keep judgements apart, a small run."""

import csv
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from benchmarks import search
from contracts.errors import BadInputError
from models.search.lexical import LexicalConfig


def _folder(root: Path) -> Path:
    kinds = ("mouse", "keyboard", "lamp", "cable", "printer", "radio")
    products = [
        {
            "id": f"{place}",
            "name": f"N{place}",
            "title": f"{kind} model {place}",
            "supplier": "Norvo",
            "short_description": f"a {kind}",
            "price": 1000 + place,
            "attr_t_type": kind,
            "attr_t_product_colour": "Black",
        }
        for place, kind in enumerate(kinds * 5)
    ]
    with zipfile.ZipFile(root / "products_1.json.zip", "w") as archive:
        archive.writestr("1.json", json.dumps(products))
    with (root / "Broad_Query_Set_rated.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["query", "docid", "rating"])
        for place, kind in enumerate(kinds):
            writer.writerows([[kind, place, 3], [kind, (place + 1) % 6, 0], [kind, place + 6, 1]])
        writer.writerow(["nothing good", 0, 0])
    return root


def test_a_small_run(tmp_path: Path) -> None:
    report = search.measure(
        _folder(tmp_path),
        seed=7,
        lexical=[LexicalConfig(), LexicalConfig(k1=1.2)],
        fusion=[(0.1, 0), (0.2, 2)],
        folds=3,
    )
    assert (report["queries"], report["products"]) == (6, 30)
    assert set(report["ndcg_at_10"]) == {"bm25", "dense", "fused"}
    assert report["ndcg_at_10"]["bm25"]["judged_only"] > 0.9
    assert len(report["chosen"]["bm25"]) == len(report["chosen"]["fused"]) == 3
    assert "judged only" in search.table(report)
    json.dumps(report)


def test_products_are_read_as_a_catalogue(tmp_path: Path) -> None:
    catalogue = search.read_products(_folder(tmp_path))
    assert catalogue.titles[1] == "keyboard model 1"
    assert catalogue.categories[1] == "keyboard"
    assert catalogue.tags[1] == ("Black",)
    assert catalogue.prices[1] == np.float32(10.01)


def test_figures_by_hand() -> None:
    judged = [search.Judged("q", np.array([2, 0]), np.array([3, 0]))]
    scores = np.array([3.0, 2.0, 1.0], np.float32)  # item 2 is third, second of those judged
    unjudged_0, judged_only = search._figures(iter([scores]), judged)
    assert unjudged_0[0] == pytest.approx(1 / np.log2(4))
    assert judged_only[0] == pytest.approx(1 / np.log2(3))


def test_no_query_chooses_for_itself() -> None:
    """Option 1 is best on every query but the one held out, where option 0 is."""
    figures = np.zeros((2, 2, 3))
    figures[1, :, 1:], figures[0, :, 0] = 0.4, 1.0
    found, chosen = search.cross_validated(figures, np.array([0, 1, 2]))
    assert chosen == [1, 0, 0]
    assert found.tolist() == [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]


def test_randomisation_by_hand() -> None:
    """All of n differences equal: only the 2 of 2^n sign draws that are all alike are as large."""
    p = search.randomisation_p(np.ones(6), np.zeros(6), flips=40_000, seed=1)
    assert p == pytest.approx(2 / 2**6, rel=0.15)
    assert search.randomisation_p(np.ones(6), np.ones(6), flips=100, seed=1) == 1.0


def test_bad_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="products_"):
        search.read_products(tmp_path)
    folder = _folder(tmp_path)
    catalogue = search.read_products(folder)
    (folder / "Broad_Query_Set_rated.csv").write_text("query,docid,rating\nmouse,999,1\n")
    with pytest.raises(BadInputError, match="'999'"):
        search.read_judgements(folder, catalogue)
    (folder / "Broad_Query_Set_rated.csv").unlink()
    with pytest.raises(BadInputError, match="does not exist"):
        search.read_judgements(folder, catalogue)
