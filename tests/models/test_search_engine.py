"""Search as a whole: synonyms and spelling, relaxation, filters, facets, saving, speed."""

import time
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from contracts.errors import BadInputError, CorruptError, NotFoundError
from models.base import Catalogue
from models.search.engine import SearchConfig, SearchIndex
from models.search.filters import Filters, ItemFacts
from models.search.lexical import LexicalConfig
from tests.models.search_shop import ROWS, SYNONYMS, catalogue, index, many

shop = cache(index)


@pytest.mark.parametrize(
    ("query", "first"),
    [
        # as it is written
        ("wireless mouse", 0),
        ("机械键盘", 8),
        ("罗技 鼠标", 7),
        ("mg5350", 5),
        ("batteries", 12),
        # spelling: a letter wrong, missing, doubled, swapped; an unfinished word
        ("wirelss mouse", 0),
        ("mecanical keybord", 2),
        ("stereo haedset", 5),
        ("headphonse", 6),
        ("rechargable baterry", 12),
        ("sleev", 3),
        ("mechan", 2),
        ("无线鼠飘", 7),
        ("蓝牙耳", 9),
        ("耳机蓝牙", 9),
        # compounds
        ("head set", 5),
        ("note book sleeve", 3),
        # synonyms, phrases and across languages
        ("laptop sleeve", 3),
        ("laptop 16 gb", 4),
        ("desk light", 11),
        ("noise cancelling earphones", 6),
        ("手提电脑 sleeve", 3),
        ("norvo wireless 鼠标", 0),
    ],
)
def test_synonyms_and_spelling(query: str, first: int) -> None:
    result = shop().search(query, 5)
    assert result.items[0] == first, [ROWS[item][0] for item in result.items]


@pytest.mark.parametrize("query", ["耳机", "earphones"])
def test_a_synonym_finds_both_languages(query: str) -> None:
    assert {6, 9} <= set(shop().search(query, 5).items.tolist())


def test_without_synonyms_the_word_is_not_known() -> None:
    plain = SearchIndex.build(catalogue(), SearchConfig(), seed=7)
    assert 9 not in plain.search("earphones", 3).items


@pytest.mark.parametrize(
    ("query", "relaxed", "total"),
    [
        ("wireless mouse", "none", 1),
        ("mouse", "none", 3),  # in Chinese too, by the synonym
        ("wireless optical zzzqx", "most", 1),
        ("wireless zzzqx yyyqx", "any", 1),
    ],
)
def test_the_query_is_relaxed_no_further_than_needed(query: str, relaxed: str, total: int) -> None:
    result = shop().search(query, 10)
    assert (result.relaxed, result.total) == (relaxed, total)


def test_items_that_hold_all_of_the_query_come_first() -> None:
    result = shop().search("mouse pad", 5)
    assert result.items[0] == 1 and set(result.items[1:].tolist()) == {0, 7}
    assert (np.diff(result.scores) <= 0).all()
    assert result.matched.tolist() == [True, False, False] and result.total == 1
    assert ((result.scores >= 1) == result.matched).all()


def test_what_holds_no_term_is_found_by_resemblance() -> None:
    result = shop().search("notebookery", 5)  # no word is near it, but how it is written is
    assert (result.relaxed, set(result.items[:2].tolist())) == ("dense", {3, 4})
    result = shop().search("notebookery", 5, Filters(price_min=100))
    assert result.items[0] == 4 and 3 not in result.items
    assert len(shop().search("qqqqqqq", 5).items) == 0  # nothing is near


@pytest.mark.parametrize("query", ["", "  ", "!!", "的"])
def test_a_query_that_asks_for_nothing(query: str) -> None:
    assert len(shop().search(query, 3).items) == 0


def test_an_empty_catalogue_finds_nothing() -> None:
    empty = Catalogue((), (), (), (), (), (), np.empty(0, np.float32))
    result = SearchIndex.build(empty, SearchConfig(), seed=7).search("mouse", 3)
    assert (len(result.items), result.total) == (0, 0)


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (Filters(categories=("computer",)), {0, 1}),
        (Filters(categories=("computer>mice",)), {0}),
        (Filters(categories=("comp",)), set()),
        (Filters(brands=("Norvo", "罗技")), {0, 1, 7}),
        (Filters(tags=("black",)), {0, 1}),
        (Filters(price_min=10, price_max=20), {0}),
        (Filters(price_max=9), {1}),
    ],
)
def test_filters(filters: Filters, expected: set[int]) -> None:
    assert set(shop().search("mouse", 10, filters).items.tolist()) == expected


def test_what_is_not_available_is_not_shown_nor_counted() -> None:
    available = np.ones(len(ROWS), bool)
    available[0] = False
    result = shop().search("mouse", 10, available=available)
    assert 0 not in result.items and result.total == 2


def test_items_without_a_price_are_left_out_when_one_is_asked_for() -> None:
    assert 11 in shop().search("desk lamp", 3).items
    assert 11 not in shop().search("desk lamp", 3, Filters(price_min=0)).items


def test_facets_count_every_level_of_the_matches() -> None:
    facets = shop().search("mouse", 1).facets  # a page of one, facets of all three
    assert dict(facets.categories) == {
        "computer": 2,
        "computer > accessories": 1,
        "computer > mice": 1,
        "电脑": 1,
        "电脑 > 鼠标": 1,
    }
    assert facets.brands == (("Norvo", 2), ("罗技", 1))
    assert sum(bucket.count for bucket in facets.prices) == 3


def test_mistakes_of_the_caller() -> None:
    with pytest.raises(BadInputError, match="k = 0"):
        shop().search("mouse", 0)
    with pytest.raises(BadInputError, match="swap"):
        shop().search("mouse", 1, Filters(price_min=2, price_max=1))
    with pytest.raises(BadInputError, match="available"):
        shop().search("mouse", 1, available=np.ones(2, bool))
    with pytest.raises(ValueError, match="dense_weight"):
        SearchConfig(dense_weight=2)
    with pytest.raises(ValueError, match="k1"):
        LexicalConfig(k1=0)


def test_bm25f_by_hand() -> None:
    """One field, b = 0: idf * f (k1 + 1) / (k1 + f), f = weight * count."""
    rows = Catalogue(
        ("a", "b", "c"),
        ("pen pen", "pen ink", "ink"),
        ("",) * 3,
        ("",) * 3,
        ("",) * 3,
        ((),) * 3,
        np.full(3, np.nan, np.float32),
    )
    config = SearchConfig(lexical=LexicalConfig(title=2.0, k1=1.0, b=0.0))
    built = SearchIndex.build(rows, config, seed=7)
    scores = built.lexical_scores(built.read("pen")).lexical
    idf = np.log(1 + 1.5 / 2.5)
    np.testing.assert_allclose(scores, [idf * 4 * 2 / 5, idf * 2 * 2 / 3, 0], rtol=1e-6)


def test_saved_and_loaded_answers_the_same(tmp_path: Path) -> None:
    shop().save(tmp_path)
    assert not list(tmp_path.rglob("*.pkl"))
    loaded = SearchIndex.load(tmp_path, SearchConfig(synonyms=SYNONYMS), ItemFacts(catalogue()))
    for query in ("wireless mouse", "keybord", "耳机", "zzz", "notebook sleeve"):
        one, other = shop().search(query, 5), loaded.search(query, 5)
        np.testing.assert_array_equal(one.items, other.items)
        np.testing.assert_array_equal(one.scores, other.scores)
        assert (one.relaxed, one.facets) == (other.relaxed, other.facets)


def test_a_damaged_or_missing_index_is_named(tmp_path: Path) -> None:
    facts = ItemFacts(catalogue())
    with pytest.raises(NotFoundError, match="lexical"):
        SearchIndex.load(tmp_path, SearchConfig(), facts)
    shop().save(tmp_path)
    with pytest.raises(CorruptError, match="13 items for a catalogue of 500"):
        SearchIndex.load(tmp_path, SearchConfig(), ItemFacts(many(500, seed=1)))
    (tmp_path / "lexical" / "lexical.items.npy").write_bytes(b"no")
    with pytest.raises(CorruptError, match="lexical.items"):
        SearchIndex.load(tmp_path, SearchConfig(), facts)


def test_equal_seeds_give_equal_pages() -> None:
    rows = many(500, seed=1)
    pages = [SearchIndex.build(rows, SearchConfig(), seed=3).search("kamori ten", 9) for _ in "ab"]
    np.testing.assert_array_equal(pages[0].items, pages[1].items)
    np.testing.assert_array_equal(pages[0].scores, pages[1].scores)


def test_the_page_is_the_top_of_the_scores_of_all_items() -> None:
    rows = many(2000, seed=2)
    built = SearchIndex.build(rows, SearchConfig(), seed=3)
    text = rows.titles[17]
    query = built.read(text)
    found = built.lexical_scores(query)
    scores = built.fuse(query, found, built.resemblance(query, found.lexical))
    expected = np.argsort(-scores, kind="stable")[:10]
    np.testing.assert_array_equal(built.search(text, 10).items, expected)


def test_fusion_uses_the_dense_part() -> None:
    rows = many(2000, seed=2)
    built = SearchIndex.build(rows, SearchConfig(), seed=3)
    fused = built.search(rows.titles[17], 50).items
    built.config = replace(built.config, dense_weight=0.0)
    assert (built.search(rows.titles[17], 50).items != fused).any()


def test_a_query_takes_milliseconds() -> None:
    rows = many(20_000, seed=5)
    built = SearchIndex.build(rows, SearchConfig(), seed=3)
    spent = []
    for row in range(50):
        started = time.perf_counter()
        built.search(" ".join(rows.titles[row].split()[:2]), 20)
        spent.append(time.perf_counter() - started)
    assert np.median(spent) < 0.05  # ten times what it takes, for a busy machine
