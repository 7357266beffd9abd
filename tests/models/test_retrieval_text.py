"""Text."""

import socket
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from contracts.errors import CorruptError, SettingsError
from models.base import Catalogue
from models.registry import load_retriever
from models.retrieval.text import Text, TextConfig
from tests.models.conformance import WEIGHTS, RetrieverConformance, checkerboard, history, training


def shop(titles: list[str]) -> Catalogue:
    blank = ("",) * len(titles)
    prices = np.zeros(len(titles), dtype=np.float32)
    ids = tuple(str(item) for item in range(len(titles)))
    return Catalogue(ids, tuple(titles), blank, blank, blank, ((),) * len(titles), prices)


def model_of(titles: list[str], **options: str) -> Text:
    data = replace(training([(0, 0, 0)], n_items=1), catalogue=shop(titles))
    return Text(TextConfig(**options)).fit(data, event_weights=WEIGHTS, seed=0)  # type: ignore[arg-type]


class TestText(RetrieverConformance):
    retriever = "text"

    def test_items_without_events_are_found(self) -> None:
        scores = self.fitted(checkerboard()).score_all(history([(0, 1.0)]))[0]
        assert scores[18] > 0.9  # of the same kind, in no event
        assert scores[19] == 0  # without text

    def test_english_and_chinese(self) -> None:
        titles = ["red tea pot", "blue tea cup", "garden hose", "garden rake"]
        titles += ["红色陶瓷茶壶", "蓝色陶瓷茶壶", "花园水管", "花园耙子"]
        items, _ = model_of(titles).recommend(
            history([(0, 1.0)], [(2, 1.0)], [(4, 1.0)], [(6, 1.0)]),
            1,
            exclude=np.array([[0], [2], [4], [6]], dtype=np.int32),
        )
        assert items[:, 0].tolist() == [1, 3, 5, 7]

    def test_encode_gives_new_items_the_vectors_of_old_ones(self) -> None:
        titles = ["red tea pot", "blue tea cup", "garden hose", "garden rake"]
        model = model_of(titles)
        vectors = model.encode(shop([*titles, "green tea", "жж"]))
        scores = vectors @ vectors[:4].T
        np.testing.assert_allclose(scores[:4].diagonal(), 1, rtol=1e-5)
        assert scores[4, :2].min() > scores[4, 2:].max()
        assert not scores[5].any()

    def test_tiny_and_empty_catalogues(self) -> None:
        for titles in (["one"], ["", ""], ["a", "b"], ["same", "same"]):
            scores = model_of(titles).score_all(history([(0, 1.0)]))
            assert np.isfinite(scores).all()
        assert model_of(["same", "same"]).score_all(history([(0, 1.0)])).min() > 0.99


# -- an encoder of sentence-transformers


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence-transformers folder with a BERT of one layer, of random weights, by characters."""
    pytest.importorskip("sentence_transformers")
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    root = tmp_path_factory.mktemp("encoder")
    letters = sorted(set("abcdefghijklmnopqrstuvwxyz红蓝色陶瓷茶壶花园水管耙子"))
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters]
    words += [f"##{letter}" for letter in letters]
    (root / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    BertTokenizerFast(str(root / "vocab.txt")).save_pretrained(root / "bert")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=len(words),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=64,
            initializer_range=0.5,
        )
        BertModel(config).save_pretrained(root / "bert")
    parts = [Transformer(str(root / "bert")), Pooling(16)]
    SentenceTransformer(modules=parts, device="cpu").save(str(root / "model"))
    return root / "model"


TITLES = ["red tea pot", "red tea pots", "garden hose", "花园水管", "花园水管子", ""]


def test_an_encoder_makes_the_vectors_of_both_languages(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    model = model_of(TITLES, encoder=str(encoder))
    assert model.encode(shop(TITLES)).shape == (6, 16)
    scores = model.score_all(history([(0, 1.0)], [(3, 1.0)], [(5, 1.0)]))
    assert scores[0].argsort()[-2:].tolist() == [1, 0]
    assert scores[1].argsort()[-2:].tolist() == [4, 3]
    assert not scores[2].any() and not scores[:, 5].any()
    model.save(tmp_path)
    loaded = load_retriever("text", tmp_path)
    again = loaded.score_all(history([(0, 1.0)], [(3, 1.0)], [(5, 1.0)]))
    np.testing.assert_array_equal(again, scores)
    np.testing.assert_allclose(loaded.encode(shop(TITLES)), model.encode(shop(TITLES)), atol=1e-6)


def test_another_encoder_in_its_place_is_noticed(encoder: Path) -> None:
    model = model_of(TITLES, encoder=str(encoder))
    (encoder / "note.txt").write_text("changed")
    try:
        with pytest.raises(CorruptError, match="another encoder"):
            model.encode(shop(["new"]))
    finally:
        (encoder / "note.txt").unlink()


def test_a_folder_that_is_none_and_a_package_that_is_missing(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(SettingsError, match=r"retrievers\.text\.encoder = .*modules\.json"):
            model_of(TITLES, encoder=str(folder))
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "modules.json").write_text("[]")
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(SettingsError, match="install Amalgam with its extra 'text'"):
        model_of(TITLES, encoder=str(copy))
