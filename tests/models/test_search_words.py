"""The test set of synonyms and spelling: the share of queries that find what is meant."""

from collections import Counter

import pytest

from models.search.engine import SearchConfig, SearchIndex
from tests.models.search_words import QUERIES, SYNONYMS, catalogue, queries

FIRST, AMONG_THREE, OF_EACH_KIND = 0.95, 0.99, 0.8
"""Shares that must be reached: first place, first three places, and first place of each kind."""


def test_queries_find_what_is_meant() -> None:
    rows = catalogue()
    assert len(rows) == 100 and len(queries()) >= 130
    assert {meant for _, _, meant in queries()} <= set(rows.item_ids)
    index = SearchIndex.build(rows, SearchConfig(synonyms=SYNONYMS), seed=7)
    asked, first, among = Counter[str](), Counter[str](), Counter[str]()
    missed = []
    for kind, query, meant in queries():
        found = [rows.item_ids[item] for item in index.search(query, 3).items]
        asked[kind] += 1
        first[kind] += found[:1] == [meant]
        among[kind] += meant in found
        if found[:1] != [meant]:
            missed.append(f"{kind}: {query}: {found}, meant {meant}")
    assert set(asked) == set(QUERIES)
    assert first.total() / asked.total() >= FIRST, missed
    assert among.total() / asked.total() >= AMONG_THREE, missed
    assert all(first[kind] / asked[kind] >= OF_EACH_KIND for kind in asked), missed


@pytest.mark.parametrize(
    ("query", "written", "searched"),
    [
        ("蓝芽耳机", "蓝芽", "蓝牙"),
        ("keybaord", "keybaord", "keyboard"),
        ("polar", "polar", "polarised"),
    ],
)
def test_what_was_searched_instead_is_named(query: str, written: str, searched: str) -> None:
    index = SearchIndex.build(catalogue(), SearchConfig(), seed=7)
    assert index.search(query, 3).rewrites == ((written, searched),)


def test_a_wrong_chinese_word_is_found_by_a_character_of_it_and_called_similar() -> None:
    rows = catalogue()
    found = SearchIndex.build(rows, SearchConfig(), seed=7).search("键磐", 3)
    assert found.relaxed == "dense"
    assert {rows.item_ids[item] for item in found.items} == {"z-kb-mech", "z-kb-bt"}
