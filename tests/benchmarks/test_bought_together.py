"""The benchmark of complements: what it reads, what it hides, a small run with a planted pair."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import bought_together
from contracts.errors import BadInputError

HEADER = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country"


def _export(path: Path, *, days: int = 300) -> Path:
    """Half the baskets hold items 0 and 1, all hold two or three of the other twenty."""
    rng = np.random.default_rng(1)
    lines = [HEADER]
    for day in range(days):
        others = rng.choice(np.arange(2, 22), 3, replace=False).tolist()
        for item in [0, 1, *others[:2]] if day % 2 else others:
            moment = f"2011-{day // 28 % 12 + 1:02d}-{day % 28 + 1:02d} 10:00:00"
            lines.append(f"{day},{item},thing,1,{moment},2.5,{day % 50},United Kingdom")
    lines += [
        "C9,0,returned,-1,2011-01-05 11:00:00,2.5,7,France",
        "99,0,nobody's,1,2011-01-05 11:00:00,2.5,,France",
        "98,0,free,1,2011-01-05 11:00:00,0.0,7,France",
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_small_run(tmp_path: Path) -> None:
    purchases = bought_together.read_purchases(_export(tmp_path / "export.csv"))
    assert purchases.num_rows == 150 * 4 + 150 * 3
    report = bought_together.measure(purchases, seed=7)
    assert report["items"] == 22
    assert report["pairs"] == 2  # 0 with 1, and 1 with 0
    assert report["with_complements"] == 2
    assert set(report["hit_at_10"]) == {"complements", "popularity", "raw_lift", "confidence"}
    # Items 0 and 1 alone can be found: about a quarter of the hidden ones.
    assert 0.1 < report["hit_at_10"]["complements"] < 0.4
    assert "complements" in bought_together.table(report)


def test_without_later_baskets_nothing_can_be_said(tmp_path: Path) -> None:
    purchases = bought_together.read_purchases(_export(tmp_path / "export.csv", days=1))
    with pytest.raises(BadInputError, match="no basket"):
        bought_together.measure(purchases, seed=7)
    with pytest.raises(BadInputError, match="does not exist"):
        bought_together.read_purchases(tmp_path / "none.csv")
