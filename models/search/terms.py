"""From text to terms, alike for items and queries, English and Chinese alike."""

import html
import re
import unicodedata
from collections.abc import Sequence
from typing import Final

from models.search.characters import SIMPLER

_MARKUP: Final = re.compile(r"<[^>]*>")
_CJK: Final = (
    "\u3040-\u30ff"  # hiragana, katakana
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"  # Han
    "\uac00-\ud7af"  # Hangul
)
_RUNS: Final = re.compile(f"[{_CJK}]+|[^\\W_{_CJK}]+")
_CJK_START: Final = re.compile(f"[{_CJK}]")
_SHORTEST_PLURAL = 4


def normalised(text: str) -> str:
    """Return the text in lower case, full width made half width, traditional Chinese made
    simplified, without markup and entities.
    """
    plain = _MARKUP.sub(" ", html.unescape(text)) if "<" in text or "&" in text else text
    if plain.isascii():
        return plain.casefold()
    return unicodedata.normalize("NFKC", plain).casefold().translate(SIMPLER)


def terms(text: str) -> list[str]:
    """Return the terms of a text in order: stemmed words, and pairs of neighbours in a CJK run.

    A CJK run of one character is that character; longer runs give no single characters, so that a
    word is not taken for the characters it is written with (Nie et al. 2000, bigrams).

    >>> terms("Batteries for the Nokia 5800")
    ['battery', 'for', 'the', 'nokia', '5800']
    >>> terms("无线鼠标 x2")
    ['无线', '线鼠', '鼠标', 'x2']
    """
    return [stem(word) for word in words(text)]


def words(text: str) -> list[str]:
    """Return what `terms` makes its terms of: words as they are written, pairs in a CJK run."""
    found: list[str] = []
    for run in _RUNS.findall(normalised(text)):
        found += cjk_pairs(run) if _CJK_START.match(run) else [run]
    return found


def cjk_pairs(run: str) -> list[str]:
    """Return the neighbouring pairs of a run of CJK characters; the run itself when it is one."""
    return [run] if len(run) == 1 else [run[at : at + 2] for at in range(len(run) - 1)]


def is_cjk(term: str) -> bool:
    """Say whether a term is written in Chinese, Japanese or Korean characters."""
    return bool(_CJK_START.match(term))


def stem(word: str) -> str:
    """Return an English word without its plural ending (the S stemmer, Harman 1991, and -es).

    Words with digits are model numbers and stay as they are.

    >>> [stem(word) for word in ("batteries", "watches", "cases", "glass", "bus", "gs290", "tvs")]
    ['battery', 'watch', 'case', 'glass', 'bus', 'gs290', 'tvs']
    """
    if len(word) < _SHORTEST_PLURAL or not word.isalpha() or not word.endswith("s"):
        return word
    if word.endswith("ies") and len(word) > _SHORTEST_PLURAL:
        return word[:-3] + "y"
    if word.endswith(("sses", "shes", "ches", "xes")):
        return word[:-2]
    return word if word.endswith(("ss", "us", "is")) else word[:-1]


def grams(words: Sequence[str], shortest: int, longest: int) -> list[str]:
    """Return the character n-grams of words, each word with its ends marked by a space.

    >>> grams(["usb"], 3, 4)
    [' us', 'usb', 'sb ', ' usb', 'usb ']
    """
    marked = [f" {word} " for word in words]
    return [
        word[at : at + size]
        for word in marked
        for size in range(shortest, longest + 1)
        for at in range(len(word) - size + 1)
    ]
