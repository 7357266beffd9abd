"""`python -m models benchmark` on the CPU, with tiny sizes."""

import json
from pathlib import Path

import pytest

from models.__main__ import main
from models.benchmark import SIZES, Measured, Shop, drawn_data, matmul_tflops, table

TINY = ["--users", "60", "--items", "30", "--events-per-user", "6", "--embedding-size", "8"]
TINY += ["--matmul-size", "64", "--epochs", "1", "--device", "cpu"]


def test_measures_every_model_and_writes_what_it_prints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["benchmark", *TINY, "--out", str(tmp_path / "speed.json")]) == 0
    printed = capsys.readouterr().out
    written = json.loads((tmp_path / "speed.json").read_text())
    assert [row["model"] for row in written["measured"]] == list(SIZES)
    for row in written["measured"]:
        assert row["device"] == "cpu"
        assert row["samples_per_second"] > 0 < row["epoch_seconds"]
        assert f"| {row['model']} | cpu | {row['samples_per_second']:,.0f} |" in printed
        if row["model"] != "ials":
            assert 0 < row["tflops"] < 100
            assert row["limit_share"] == pytest.approx(
                row["tflops"] / written["matmul_tflops"]["cpu"]
            )
    assert written["users"] == 60


def test_the_gpu_stands_beside_the_cpu() -> None:
    facts = {"machine": "card", "torch": "2", "threads": 2, "seed": 0, "users": 9, "items": 9}
    facts |= {"events_per_user": 4, "matmul_tflops": {"cuda": 400.0, "cpu": 0.1}}
    rows = [
        Measured("sasrec", "cuda", 5000.0, 2.0, 40.0, 0.1),
        Measured("sasrec", "cpu", 100.0, 100.0, None, None),
    ]
    lines = table(rows, facts)
    assert lines[-2] == "| sasrec | cuda | 5,000 | 2.00 | 40.000 | 10.0% | 50.0 |"
    assert lines[-1] == "| sasrec | cpu | 100 | 100.00 |  |  | 1.0 |"


def test_the_data_are_drawn_from_the_seed() -> None:
    shop = Shop(users=5, items=7, events_per_user=3)
    one, same, other = drawn_data(shop, 1), drawn_data(shop, 1), drawn_data(shop, 2)
    assert one.items.tolist() == same.items.tolist() != other.items.tolist()
    assert len(one.items) == 15
    assert matmul_tflops("cpu", 32) > 0


def test_an_unknown_model_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", "--models", "ease"]) == 2
    assert "ease" in capsys.readouterr().err
