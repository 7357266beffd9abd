"""`python -m models` on files."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contracts import columns as c
from contracts.tables import TIMESTAMP
from models.__main__ import main
from models.artifacts import verify_manifest
from models.data import load_catalogue
from models.registry import load_retriever
from tests.models.conformance import history


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Thirty shoppers, half of them sessions, walk round six items; a seventh only has a text."""
    rows = [(n, step, (n + step) % 6) for n in range(30) for step in range(4)]
    shoppers, steps, items = (np.array(part) for part in zip(*rows, strict=True))
    table = pa.table({
        c.USER_ID: pa.array([f"u{n}" if n % 2 else None for n in shoppers], pa.string()),
        c.SESSION_ID: pa.array([f"s{n}" for n in shoppers], pa.string()),
        c.ITEM_ID: [f"i{item}" for item in items],
        c.EVENT_TYPE: ["purchase"] * len(rows),
        c.EVENT_TIMESTAMP: pa.array(steps + 1, pa.int64()).cast(TIMESTAMP),
    })
    pq.write_table(table, tmp_path / "interactions.parquet")
    described = pa.table({c.ITEM_ID: ["i6", "i0"], c.TITLE: ["blue pot", "blue cup"]})
    pq.write_table(described, tmp_path / "items.parquet")
    (tmp_path / "models.toml").write_text("[retrievers.transitions]\nwindow = 2\n")
    return [
        f"--interactions={tmp_path / 'interactions.parquet'}",
        f"--items={tmp_path / 'items.parquet'}",
        f"--out={tmp_path / 'out'}",
        f"--config={tmp_path / 'models.toml'}",
    ]


def test_trains_saves_and_reports(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*files, "--models", "popularity,transitions,text"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == {"events": 120, "shoppers": 30, "items": 7}
    assert [line["model"] for line in lines[1:]] == ["popularity", "transitions", "text"]
    manifest = verify_manifest(tmp_path / "out")
    assert manifest["models"] == ["popularity", "transitions", "text"]
    assert load_catalogue(tmp_path / "out").item_ids == tuple(f"i{n}" for n in range(7))
    model = load_retriever("transitions", tmp_path / "out" / "transitions")
    assert model.config.window == 2
    assert model.recommend(history([(4, 1.0)]), 1)[0].tolist() == [[5]]


def test_what_is_not_before_the_moment_is_unseen(
    files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*files, "--models", "popularity", "--before-us", "2"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[0])["events"] == 30


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (["--models", "als"], 2, "unknown retriever 'als'"),
        (["--interactions", "nowhere.parquet"], 2, "nowhere.parquet"),
        (["--config", "nowhere.toml"], 2, "nowhere.toml"),
    ],
)
def test_errors_are_one_line_and_a_code(
    files: list[str], more: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*files, *more]) == code
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
