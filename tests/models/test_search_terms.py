"""Terms, spelling and how a query is read."""

import numpy as np
import pytest

from models.search.lexical import LexicalConfig, LexicalIndex
from models.search.query import QueryReader
from models.search.spelling import Speller, edit_distance
from models.search.terms import normalised, terms
from tests.models.search_shop import SYNONYMS, catalogue


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<b>USB&amp;HDMI</b> Cables", ["usb", "hdmi", "cable"]),
        ("batteries watches boxes glasses glass bus", "battery watch box glass glass bus".split()),
        ("无线鼠标", ["无线", "线鼠", "鼠标"]),
        ("灯", ["灯"]),
        ("ＡＢＣ１２", ["abc12"]),
        ("TN-2110", ["tn", "2110"]),
        ("罗技mouse", ["罗技", "mouse"]),
        ("無線滑鼠", ["无线", "线滑", "滑鼠"]),
        ("  ", []),
        ("!?", []),
    ],
)
def test_terms(text: str, expected: list[str]) -> None:
    assert terms(text) == expected


def test_a_text_without_markup_is_left_as_it_is() -> None:
    assert normalised("3 < 5") == "3 < 5"


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [("mouse", "mouse", 0), ("moues", "mouse", 1), ("mose", "mouse", 1), ("mous", "house", 2)],
)
def test_edit_distance(one: str, other: str, expected: int) -> None:
    assert edit_distance(one, other, 2) == expected


def test_edit_distance_stops_above_what_is_asked() -> None:
    assert edit_distance("mouse", "keyboard", 2) == 3
    assert edit_distance("abc", "xyz", 2) == 3


def test_nearest_prefers_the_smaller_distance_then_the_more_frequent() -> None:
    words = ("keyboard", "moose", "mouse", "mousepad", "x5350")
    speller = Speller(words, np.array([3, 9, 2, 1, 1]))
    assert speller.nearest("mouze") == [2]
    assert speller.nearest("moise") == [1]  # one edit from both: the more frequent
    assert speller.nearest("keyb") == [0]  # a beginning
    assert speller.nearest("qqqqq") == []
    assert speller.nearest("y5350") == []  # model numbers are not guessed
    assert speller.nearest("x53") == [4]


def test_nearest_of_an_empty_vocabulary_is_nothing() -> None:
    assert Speller((), np.zeros(0, np.int64)).nearest("mouse") == []


def _read(text: str) -> list[list[str]]:
    index = LexicalIndex.build(catalogue(), LexicalConfig())
    query = QueryReader(index, SYNONYMS).read(text)
    return [
        ["+".join(index.vocabulary[n] for n in own.numbers) for own in slot.alternatives]
        for slot in query.slots
    ]


def test_slots() -> None:
    assert _read("the mouse for a keyboard") == [["mouse", "鼠标"], ["keyboard"]]
    assert _read("head set") == [["headset"], ["headset"]]
    assert _read("mousepad") == [["mouse+pad"]]
    assert _read("for the") == [[], []]  # nothing but small words: they are asked for
    assert _read("desk light")[0][-2:] == ["desk+lamp", "台灯"]
    assert _read("") == []


def test_a_synonym_without_a_word_is_none() -> None:
    index = LexicalIndex.build(catalogue(), LexicalConfig())
    query = QueryReader(index, [["mouse", "!!", ""]]).read("mouse")
    assert [len(slot.alternatives) for slot in query.slots] == [1]


def test_what_cannot_be_read_of_a_wrong_character_stays() -> None:
    index = LexicalIndex.build(catalogue(), LexicalConfig())
    query = QueryReader(index).read("无钱鼠标 键磐")
    assert query.rewrites == (("无钱", "无线"),)
    assert [len(slot.alternatives) for slot in query.slots] == [1, 1, 1, 0]


def test_characters_of_a_chinese_query() -> None:
    index = LexicalIndex.build(catalogue(), LexicalConfig())
    query = QueryReader(index).characters("键磐 usb")
    assert [slot.term for slot in query.slots] == ["键", "磐"]
    held = [[index.vocabulary[a.numbers[0]] for a in slot.alternatives] for slot in query.slots]
    assert held == [["械键", "键盘"], []]
    assert QueryReader(index).characters("usb").slots == ()


def test_rewrites_name_the_word_as_it_was_written() -> None:
    index = LexicalIndex.build(catalogue(), LexicalConfig())
    query = QueryReader(index).read("wireles keybord")
    assert query.rewrites == (("wireles", "wireless"), ("keybord", "keyboard"))
    assert query.words == ("wireless", "keyboard")
