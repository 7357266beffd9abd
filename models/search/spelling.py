"""Terms of the index that a mistyped or unfinished query term may stand for."""

import bisect
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.search.terms import grams, is_cjk

_CANDIDATES = 32
_PREFIX_TERMS = 8
_SHORTEST = 3
_LONG = 5  # from here on, two mistakes are forgiven


class Speller:
    """Finds near terms by shared character bigrams, then by edit distance.

    grams    sorted distinct bigrams (of CJK terms: single characters)
    indptr   (G + 1,)  and  holders (nnz,) int32: the terms that hold each gram
    """

    def __init__(self, vocabulary: Sequence[str], frequencies: NDArray[np.int64]) -> None:
        self._vocabulary, self._frequencies = vocabulary, frequencies
        split = [_pieces(term) for term in vocabulary]
        self._sizes = np.array([len(pieces) for pieces in split], dtype=np.float32)
        flat = [piece for pieces in split for piece in pieces]
        numbers: dict[str, int] = {}
        codes = np.array([numbers.setdefault(piece, len(numbers)) for piece in flat], np.int32)
        terms = np.repeat(np.arange(len(split), dtype=np.int32), self._sizes.astype(np.int64))
        order = np.argsort(codes, kind="stable")
        self._numbers = numbers
        self._holders = terms[order]
        self._indptr = np.searchsorted(codes[order], np.arange(len(numbers) + 1))

    def nearest(self, term: str) -> list[int]:
        """Return the numbers of the terms nearest to one that the index lacks; [] when none is.

        A CJK character alone: the most frequent terms that hold it. Else the nearest by edit
        distance 1 (neighbours swapped count one), equally near ones by frequency; else the most
        frequent terms that begin with it; else, from five letters on, by edit distance 2. Terms
        with a digit are model numbers: only their beginnings are looked for.
        """
        if is_cjk(term):
            return self.holding(term) if len(term) == 1 else []
        if len(term) < _SHORTEST:
            return []
        if any(character.isdigit() for character in term):
            return self._beginning(term)
        near = self._mistyped(term, 2 if len(term) >= _LONG else 1)
        if near and near[0][0] > 1:
            return self._beginning(term) or [near[0][2]]
        return [near[0][2]] if near else self._beginning(term)

    def between(self, first: str, last: str) -> tuple[int, int] | None:
        """Return the numbers of the CJK pairs `first` x and x `last` for the most frequent x of
        which both are known, None where there is none.
        """
        found = [
            (min(self._frequencies[left], self._frequencies[right]), -left, left, right)
            for left in self._range(first)
            if len(self._vocabulary[left]) == len("一一") and self._frequencies[left]
            for right in (self._number(self._vocabulary[left][1] + last),)
            if right is not None and self._frequencies[right]
        ]
        return max(found)[2:] if found else None

    def _number(self, term: str) -> int | None:
        place = bisect.bisect_left(self._vocabulary, term)
        known = place < len(self._vocabulary) and self._vocabulary[place] == term
        return place if known else None

    def _mistyped(self, term: str, allowed: int) -> list[tuple[int, int, int]]:
        """Return the nearest known word as [(distance, -frequency, number)], [] without one."""
        near = [
            (distance, -int(self._frequencies[number]), number)
            for number in self._sharing(term)
            if self._frequencies[number]
            and not any(character.isdigit() for character in self._vocabulary[number])
            and (distance := edit_distance(term, self._vocabulary[number], allowed)) <= allowed
        ]
        return [min(near)] if near else []

    def _sharing(self, term: str) -> list[int]:
        """Return the terms that share most bigrams with one (Dice), at most _CANDIDATES."""
        pieces = _pieces(term)
        rows = [self._row(piece) for piece in pieces]
        shared = np.bincount(np.concatenate(rows), minlength=len(self._sizes))
        dice = shared / (self._sizes + len(pieces))
        kept = min(_CANDIDATES, len(dice))
        best = np.argpartition(-dice, kept - 1)[:kept] if kept else np.empty(0, np.int64)
        return [int(number) for number in best if dice[number] > 0]

    def _beginning(self, term: str) -> list[int]:
        """Return the most frequent terms that begin with `term`; the vocabulary is sorted."""
        return self._most_frequent(np.array(self._range(term), np.int64))

    def _range(self, beginning: str) -> range:
        first = bisect.bisect_left(self._vocabulary, beginning)
        last = bisect.bisect_left(self._vocabulary, beginning + "\U0010ffff")
        return range(first, last)

    def holding(self, character: str) -> list[int]:
        """Return the most frequent CJK terms that hold a character."""
        return self._most_frequent(self._row(character))

    def _most_frequent(self, numbers: NDArray[np.integer]) -> list[int]:
        numbers = numbers[self._frequencies[numbers] > 0]
        order = np.argsort(-self._frequencies[numbers], kind="stable")[:_PREFIX_TERMS]
        return [int(number) for number in numbers[order]]

    def _row(self, piece: str) -> NDArray[np.int32]:
        number = self._numbers.get(piece)
        if number is None:
            return np.empty(0, dtype=np.int32)
        return self._holders[self._indptr[number] : self._indptr[number + 1]]


def edit_distance(one: str, other: str, at_most: int) -> int:
    """Return the edits that turn one word into the other; `at_most` + 1 when there are more.

    Insertions, deletions, substitutions and swaps of neighbours (Damerau 1964, optimal string
    alignment).

    >>> edit_distance("keybord", "keyboard", 2), edit_distance("moues", "mouse", 2)
    (1, 1)
    """
    if abs(len(one) - len(other)) > at_most:
        return at_most + 1
    before: list[int] = []
    last = list(range(len(other) + 1))
    for i, left in enumerate(one, start=1):
        row = [i]
        for j, right in enumerate(other, start=1):
            cost = min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (left != right))
            swapped = i > 1 and j > 1 and left == other[j - 2] and right == one[i - 2]
            row.append(min(cost, before[j - 2] + 1) if swapped else cost)
        if min(row) > at_most:
            return at_most + 1
        before, last = last, row
    return min(last[-1], at_most + 1)


def _pieces(term: str) -> list[str]:
    return sorted(set(term)) if is_cjk(term) else sorted(set(grams([term], 2, 2)))
