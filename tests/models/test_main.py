"""`python -m models` on files."""

import io
import json
import os
import re
import subprocess
import sys
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contracts import columns as c
from contracts.tables import TIMESTAMP
from models.__main__ import _progress, main
from models.artifacts import verify_manifest
from models.data import load_catalogue
from models.registry import load_retriever
from models.training_run import EpochDone
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


def test_a_model_that_fails_is_left_out_and_named(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # No penalty: twins in the catalogue make the system singular.
    (tmp_path / "models.toml").write_text("[retrievers.ease]\nreg = 1e-30\n")
    assert main([*files, "--models", "ease,popularity"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert "reg = 1e-30" in lines[1]["failure"] and lines[2]["model"] == "popularity"
    manifest = verify_manifest(tmp_path / "out")
    assert manifest["models"] == ["popularity"]
    assert list(manifest["failures"]) == ["ease"]
    assert not (tmp_path / "out" / "ease").exists()


def test_where_every_model_fails_the_run_does(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "models.toml").write_text("[retrievers.ease]\nreg = 1e-30\n")
    assert main([*files, "--models", "ease"]) != 0
    assert "no model could be trained" in capsys.readouterr().err
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_event_weights_of_the_settings_count(files: list[str], tmp_path: Path) -> None:
    (tmp_path / "models.toml").write_text("[training.event_weights]\nview = 1.0\n")
    assert main([*files, "--models", "popularity"]) == 0
    model = load_retriever("popularity", tmp_path / "out" / "popularity")
    assert not model.score_all(history([(0, 1.0)])).any()  # there are purchases alone
    (tmp_path / "models.toml").write_text("[training.event_weights]\nvew = 1.0\n")
    assert main([*files, "--models", "popularity"]) == 2


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


def test_a_terminal_has_a_bar_with_loss_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal, file = Terminal(), io.StringIO()
    for stream in (terminal, file):
        monkeypatch.setattr(sys, "stderr", stream)
        _progress(EpochDone("sasrec", 1, 2, 4.5, None, 12.0))
        _progress(EpochDone("sasrec", 2, 2, 4.0, 4.25, 0.0))
    first, second = terminal.getvalue().split("\r\x1b[K")[1:]
    assert first == "[############............] sasrec: epoch 1 of 2, loss 4.5000, 12 s left"
    assert second == f"[{'#' * 24}] sasrec: epoch 2 of 2, loss 4.0000, held out 4.2500\n"
    assert not file.getvalue()


def spawned(words: list[str], *, before: str = "") -> "subprocess.Popen[str]":
    """Start `python -m models` with `words`, after the statements `before`."""
    code = f"{before}\nimport sys\nfrom models.__main__ import main\nsys.exit(main(sys.argv[1:]))"
    return subprocess.Popen(
        [sys.executable, "-c", code, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_a_training_that_was_killed_goes_on_and_ends_with_the_same_bytes(
    files: list[str], tmp_path: Path
) -> None:
    options = "[retrievers.sasrec]\nembedding_size = 16\nepochs = 24\nthreads = 1\ndevice = 'cpu'\n"
    (tmp_path / "models.toml").write_text(options)
    words = [*files, "--models", "popularity,sasrec", "--seed", "4"]
    killed = spawned(words)
    assert killed.stderr is not None
    for line in killed.stderr:
        if line.startswith("sasrec: epoch 6 of 24"):
            killed.kill()  # SIGKILL
            break
    killed.communicate(timeout=60)
    assert killed.returncode == -9
    assert not (tmp_path / "out" / "sasrec").exists()
    resumed = spawned(words)
    _, said = resumed.communicate(timeout=120)
    assert resumed.returncode == 0, said
    found = re.search(r"sasrec goes on from its checkpoint after epoch (\d+)", said)
    assert found is not None and int(found[1]) >= 5
    assert not (tmp_path / "out" / ".checkpoints").exists()
    assert main([*words, f"--out={tmp_path / 'whole'}"]) == 0
    whole = tmp_path / "whole" / "sasrec"
    kept = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file())
    assert kept
    for name in kept:
        assert (tmp_path / "out" / "sasrec" / name).read_bytes() == (whole / name).read_bytes()


ALLOWED = ("torch", "numpy", "scipy", "scikit-learn", "pyarrow", "safetensors")
BLOCK = """
import sys
class Without:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        inside = name.partition(".")[0] not in BLOCKED
        return self.finder.find_spec(name, path, target) if inside else None
sys.meta_path[:] = [Without(finder) for finder in sys.meta_path if hasattr(finder, "find_spec")]
"""


def outsiders() -> set[str]:
    """Import names that are installed here and neither allowed ones nor anything these require."""
    inside: set[str] = set()
    waiting = [*ALLOWED, "amalgam"]
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in inside:
            continue
        inside.add(name)
        if name != "amalgam":
            required = distribution(name).requires or []
            plain = [text for text in required if "extra ==" not in text]
            here = {re.split(r"[ <>=!~;(\[]", text)[0]: text for text in plain}
            for wanted, text in here.items():
                if ";" not in text or "python_version" not in text:
                    waiting += [wanted] if _installed(wanted) else []
    return {
        module
        for module, owners in packages_distributions().items()
        if not {re.sub(r"[-_.]+", "-", owner).lower() for owner in owners} & inside
    }


def _installed(name: str) -> bool:
    try:
        distribution(name)
    except ModuleNotFoundError:
        return False
    return True


def test_trains_with_the_six_packages_of_a_bare_box_alone(files: list[str], tmp_path: Path) -> None:
    blocked = outsiders()
    assert {"pydantic", "pandas", "duckdb", "xgboost", "prefect", "rich"} <= blocked
    assert not {"torch", "numpy", "pyarrow", "models", "contracts"} & blocked
    small = "[retrievers.{}]\nepochs = 1\nembedding_size = 8\n"
    deep = ("sasrec", "gru4rec", "nextitnet", "item2vec", "ials", "two_tower", "neumf")
    (tmp_path / "models.toml").write_text("".join(small.format(name) for name in deep))
    names = ("popularity", "ease", "transitions", "text", "item_knn", *deep)
    done = spawned([*files, "--models", ",".join(names)], before=f"BLOCKED = {blocked!r}\n{BLOCK}")
    _, said = done.communicate(timeout=120)
    assert done.returncode == 0, said
    assert verify_manifest(tmp_path / "out")["models"] == list(names)
    model = load_retriever("sasrec", tmp_path / "out" / "sasrec")
    assert model.recommend(history([(4, 1.0)]), 3)[0].shape == (1, 3)
    refused = spawned(["--help"], before=f"BLOCKED = {blocked!r}\n{BLOCK}\nimport pydantic")
    _, said = refused.communicate(timeout=60)
    assert "No module named 'pydantic'" in said
