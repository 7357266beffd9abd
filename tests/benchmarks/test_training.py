"""`python -m benchmarks.training`: our side of it; the peers need a venv of their own."""

import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks import training
from benchmarks.frame_growth import growth
from benchmarks.quality_sequences import read_sequences
from tests.benchmarks.test_quality import write


def test_ndcg_counts_the_held_item_alone(tmp_path: Path) -> None:
    (tmp_path / "s.txt").write_text("1 a b c\n2 a b\n3 b a d\n")
    sequences = read_sequences(tmp_path / "s.txt")
    lists = np.zeros((3, 10), np.int32)
    lists[0, 1] = 2  # c at the second place
    lists[1, 0] = 1  # b at the first
    assert training.ndcg(lists, sequences, held=1) == pytest.approx((1 / math.log2(3) + 1) / 3)


@pytest.mark.parametrize(("name", "options"), [("ials", {"epochs": 2}), ("item_knn", {})])
def test_our_side_fits_in_a_process_of_its_own(
    tmp_path: Path, name: str, options: dict[str, int]
) -> None:
    sequences = read_sequences(write(tmp_path, n_users=80)[0])
    contest = training.Contest(Path(__file__), tmp_path, seed=7)
    found = contest.ours(name, contest.data(sequences, 1), options)
    assert float(found["seconds"]) > 0
    if name == "ials":
        assert found["lists"].shape == (80, 10)
        own = sequences.training(1)
        assert not np.isin(found["lists"][0], own.items[own.users == 0]).any()


def test_the_frame_is_timed_at_each_size(tmp_path: Path) -> None:
    found = growth(read_sequences(write(tmp_path)[0]), (50, 200), seed=7)
    assert [row["queries"] for row in found["sizes"]] == [50, 200]
    assert found["sizes"][1]["rows"] == pytest.approx(4 * found["sizes"][0]["rows"], rel=0.1)


def test_without_the_peers_it_says_how_to_get_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(write(tmp_path)[0])
    assert training.main([file, "--peers", str(tmp_path / "python"), "--only", "ease"]) == 1
    assert "make the venv" in capsys.readouterr().err
    assert training.main([]) == 1
    assert "no sequence file" in capsys.readouterr().err


def test_a_peer_that_fails_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(write(tmp_path)[0])
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho no such module >&2\nexit 3\n")
    broken.chmod(0o755)
    arguments = [file, "--peers", str(broken), "--only", "item_knn", "--rounds", "1"]
    assert training.main([*arguments, "--users", "50"]) == 1
    assert "no such module" in capsys.readouterr().err
