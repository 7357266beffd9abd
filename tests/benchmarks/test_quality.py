"""`python -m benchmarks.quality sequences` on a small file whose right answers are known."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import quality, quality_events
from benchmarks.quality_models import BaseModel
from benchmarks.quality_run import RANK, TEST, VALIDATION, evaluate
from benchmarks.quality_sequences import Sequences, read_sequences
from contracts.errors import BadInputError, NotFoundError
from models.base import PAD

N_ITEMS = 40
BASES = (
    BaseModel("popularity", "popularity", {"half_life_days": 1e6}),
    BaseModel("item_knn", "item_knn", {}, 20),
    BaseModel("transitions", "transitions", {}, 20),
    BaseModel("attributes", "attributes", {}, 10),
)
METRICS = {f"{name}@{k}" for name in ("recall", "ndcg") for k in (5, 10, 20)}


def write(folder: Path, n_users: int = 300, seed: int = 0) -> tuple[Path, Path]:
    """Users walk i -> i + 1 among items of one parity mostly, and jump at times."""
    rng = np.random.default_rng(seed)
    lines = []
    for user in range(n_users):
        length = int(rng.integers(5, 9))
        at, row = int(rng.integers(N_ITEMS)), []
        while len(row) < length:
            if at not in row:
                row.append(at)
            at = (at + 2) % N_ITEMS if rng.random() < 0.8 else int(rng.integers(N_ITEMS))
        lines.append(" ".join(map(str, [user + 1, *(item + 1 for item in row)])))
    (folder / "sequences.txt").write_text("\n".join(lines) + "\n")
    tags = {str(item + 1): [item % 2, 2 + item // 10] for item in range(N_ITEMS)}
    (folder / "attributes.json").write_text(json.dumps(tags))
    return folder / "sequences.txt", folder / "attributes.json"


@pytest.fixture
def sequences(tmp_path: Path) -> Sequences:
    return read_sequences(*write(tmp_path))


def test_the_file_is_read_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "s.txt").write_text("7 10 9 2\n\n8 2 10 9 11\n")
    (tmp_path / "a.json").write_text('{"2": [5, 6], "12": [5]}')
    found = read_sequences(tmp_path / "s.txt", tmp_path / "a.json")
    assert found.catalogue.item_ids == ("2", "9", "10", "11", "12")
    assert found.items.tolist() == [2, 1, 0, 0, 2, 1, 3]
    assert found.offsets.tolist() == [0, 3, 7]
    assert found.catalogue.tags == (("5", "6"), (), (), (), ("5",))
    assert not found.repeats(0)


def test_history_and_target_never_meet_the_future(tmp_path: Path) -> None:
    (tmp_path / "s.txt").write_text("1 a b c d e\n2 a b\n")
    found = read_sequences(tmp_path / "s.txt")
    assert found.has_target(TEST).tolist() == [0, 1]
    assert found.has_target(VALIDATION).tolist() == found.has_target(RANK[0]).tolist() == [0]
    users = found.has_target(RANK[0])
    for held, target, history in ((1, 4, [1, 2, 3]), (2, 3, [0, 1, 2]), (3, 2, [PAD, 0, 1])):
        assert found.targets(users, held).tolist() == [target]
        assert found.histories(users, held, 3).items.tolist() == [history]
    assert found.histories(users, 3, 3).ages_days.tolist() == [[0, 2, 1]]
    data = found.training(2)
    assert (data.users.tolist(), data.items.tolist()) == ([0, 0, 0], [0, 1, 2])
    assert int(data.times.max()) < data.now


def test_the_last_items_change_no_training(sequences: Sequences) -> None:
    items = sequences.items.copy()
    items[sequences.offsets[1:] - 1] = 0
    other = Sequences(items, sequences.offsets, sequences.catalogue)
    for held in (VALIDATION, *RANK):
        np.testing.assert_array_equal(other.training(held).items, sequences.training(held).items)
        assert len(other.training(held).items) == len(items) - held * sequences.n_users
    users = sequences.has_target(TEST)
    same = sequences.histories(users, TEST, 9), other.histories(users, TEST, 9)
    np.testing.assert_array_equal(same[0].items, same[1].items)
    assert (other.targets(users, TEST) == 0).all()


def test_the_report_is_whole_and_the_models_have_learnt(sequences: Sequences) -> None:
    report = evaluate(sequences, "small", minutes=5, bases=BASES)
    assert set(report["models"]) == {base.name for base in BASES}
    assert all(set(row) == METRICS | {"fit_seconds"} for row in report["models"].values())
    names = {"lambdamart", "blend", "blend_softmax", "stacking", "cascade"}
    assert set(report["fusions"]) == names
    assert all(set(row) == METRICS for row in report["fusions"].values())
    assert report["fused"] == report["fusions"][report["fusion"]]
    assert (report["users"], report["items"], report["left_out"]) == (300, N_ITEMS, {})
    ndcg = {name: row["ndcg@10"] for name, row in report["models"].items()}
    assert report["best_single"] == max(ndcg, key=ndcg.__getitem__) != "popularity"
    assert ndcg["transitions"] > 2 * ndcg["popularity"]
    assert report["fused"]["ndcg@10"] > 0.9 * ndcg[report["best_single"]]
    assert report["validation"]["fusions"][report["fusion"]] == max(
        report["validation"]["fusions"].values()
    )


def test_the_last_item_moves_only_its_own_score(sequences: Sequences) -> None:
    """What is learnt and chosen is equal whatever the last items are."""
    items = sequences.items.copy()
    items[sequences.offsets[1:] - 1] = items[sequences.offsets[1:] - 1][::-1]
    other = Sequences(items, sequences.offsets, sequences.catalogue)
    one, two = (evaluate(each, "s", minutes=5, bases=BASES) for each in (sequences, other))
    assert one["validation"] == two["validation"]
    assert one["importance"] == two["importance"]
    assert one["models"]["transitions"]["ndcg@10"] > two["models"]["transitions"]["ndcg@10"]


def test_a_model_that_time_or_data_does_not_allow_is_left_out_by_name(
    sequences: Sequences,
) -> None:
    slow = BaseModel("gru", "gru4rec", {"epochs": 3, "embedding_size": 4}, 10, budget=1e-9)
    wild = {"epochs": 2, "learning_rate": 1e30, "embedding_size": 4, "device": "cpu"}
    bases = (*BASES, slow, BaseModel("wild", "item2vec", wild, 10))
    report = evaluate(sequences, "s", minutes=5, bases=bases)
    assert set(report["left_out"]) == {"gru", "wild"}
    assert "diverged" in report["left_out"]["wild"] or "loss" in report["left_out"]["wild"]
    assert set(report["models"]) == {base.name for base in BASES}


def test_the_command_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, attributes = write(tmp_path)
    out = tmp_path / "report.json"
    arguments = ["sequences", str(file), "--attributes", str(attributes), "--out", str(out)]
    arguments += ["--minutes", "5", "--models"]
    assert quality.main([*arguments, "item_knn,transitions,attributes"]) == 0
    printed = capsys.readouterr().out
    report = json.loads(out.read_text())
    assert quality.table(report) == printed
    for name in (*report["models"], *report["fusions"]):
        assert name in printed
    assert quality.main([*arguments, "item_knn,als"]) == 1
    assert "'als'" in capsys.readouterr().err


def test_what_is_no_sequence_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(NotFoundError, match=r"none\.txt"):
        read_sequences(tmp_path / "none.txt")
    file = tmp_path / "s.txt"
    file.write_text("\n")
    with pytest.raises(BadInputError, match="holds no sequence"):
        read_sequences(file)
    file.write_text("1 a b\n2\n")
    with pytest.raises(BadInputError, match="sequence 2 has no items"):
        read_sequences(file)
    (tmp_path / "a.json").write_text("[1]")
    with pytest.raises(BadInputError, match="not a JSON object"):
        read_sequences(_good(file), tmp_path / "a.json")
    assert quality.main(["sequences", str(file)]) == 1
    assert "four items" in capsys.readouterr().err


def _good(file: Path) -> Path:
    file.write_text("1 a b\n")
    return file


def test_events_are_judged_beside_the_oracle(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Any, ...]] = []

    def kept(*arguments: Any) -> dict[str, quality_events.AgainstOracle]:
        asked.append(arguments)
        return against_oracle(*arguments)

    against_oracle = quality_events.against_oracle
    monkeypatch.setattr(quality_events, "against_oracle", kept)
    out = tmp_path / "out.json"
    arguments = ["events", "--generated", "6000", "--models", "popularity,item_knn"]
    assert quality.main([*arguments, "--out", str(out)]) == 0
    page, report = capsys.readouterr().out, json.loads(out.read_text())
    assert set(report["tables"]) == {"repeats_allowed", "new_items_only"}
    for table in report["tables"].values():
        oracle = table["oracle"]
        assert set(oracle["oracle"]) == set(oracle["served"]) == METRICS
        # Who knows the true preferences finds more than who counts events.
        assert oracle["oracle"]["ndcg@10"] > table["models"]["popularity"]["ndcg@10"]
        share = oracle["served"]["ndcg@10"] / oracle["oracle"]["ndcg@10"]
        assert oracle["share"] == pytest.approx(share)
        # Visitors, of whom no taste is known, are a good part of the test and in neither mean.
        assert 0 < oracle["shoppers"] < 0.8 * table["shoppers"]
        assert {"difference", "lower", "upper"} <= set(table["fused_against_best_single"])
    assert "of the oracle's NDCG" in page and "the best single model" in page
    true, served, *rest = asked[0]
    for name, lists in true.items():
        assert lists.shape == served[name].shape
        assert (lists != PAD).any(axis=1).all() and (served[name] != PAD).any(axis=1).all()
    itself = against_oracle(true, true, *rest)
    assert [found.share for found in itself.values()] == [1.0, 1.0]


def test_events_need_one_kind_of_shop(capsys: pytest.CaptureFixture[str]) -> None:
    assert quality.main(["events"]) == 1
    assert "give either files or --generated" in capsys.readouterr().err
