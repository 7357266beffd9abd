"""What a query asks for: a slot a term, and the terms of the index that may fill each."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from models.search.lexical import LexicalIndex
from models.search.spelling import Speller
from models.search.terms import is_cjk, stem, terms, words

_STOP_WORDS: Final = frozenset(
    "a an and at by for from in is it my of on or our that the this to with your 的 了 和".split()
)
_SHORTEST_PART = 3
_SYNONYM_WEIGHT, _SPLIT_WEIGHT = 0.8, 0.5
_MAX_TERMS = 32
"""Terms of a query that are looked at; what is longer is no query."""


@dataclass(frozen=True)
class Alternative:
    """Terms of the index (numbers) that an item must all hold; worth their mean times `weight`."""

    numbers: tuple[int, ...]
    weight: float = 1.0


@dataclass(frozen=True)
class Slot:
    """One term of the query and what may fill it; the best that an item holds counts."""

    term: str
    alternatives: tuple[Alternative, ...]


@dataclass(frozen=True)
class Query:
    """A query as the index understands it.

    slots     what is asked for, in order; one without alternatives is matched by no item
    words     the terms to compare by vectors: those of the index where the query's are unknown
    rewrites  "searched instead for": (word of the query, term of the index)
    """

    slots: tuple[Slot, ...]
    words: tuple[str, ...]
    rewrites: tuple[tuple[str, str], ...]


class QueryReader:
    """Reads queries for one index: spelling, compounds, synonyms."""

    def __init__(self, index: LexicalIndex, synonyms: Sequence[Sequence[str]] = ()) -> None:
        self._index = index
        self._speller = Speller(index.vocabulary, index.frequencies())
        self._synonyms: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
        for group in synonyms:
            members = [found for member in group if (found := tuple(terms(member)))]
            for member in members:
                others = [other for other in members if other != member]
                self._synonyms.setdefault(member, []).extend(others)
        self._longest = max((len(member) for member in self._synonyms), default=0)

    def read(self, text: str) -> Query:
        """Return the query; no slots when the text has no term at all."""
        found = words(text)[:_MAX_TERMS]
        written = [word for word in found if word not in _STOP_WORDS] or found
        kept = [stem(word) for word in written]
        filled = [self._own(term) for term in kept]
        for place, alternative in (*self._joined(kept), *self._synonymous(kept)):
            filled[place].append(alternative)
        rewrites, compared = self._mended(kept, filled), []
        for word, term, own in zip(written, kept, filled, strict=True):
            near = [] if own else self._speller.nearest(word) or self._speller.nearest(term)
            own += [Alternative((number,)) for number in near]
            instead = [self._index.vocabulary[number] for number in near[:1]]
            rewrites += [(word, other) for other in instead]
            compared += instead or [term]
        slots = tuple(Slot(term, tuple(own)) for term, own in zip(kept, filled, strict=True))
        return Query(slots, tuple(compared), tuple(rewrites))

    def characters(self, text: str) -> Query:
        """Return what a CJK query asks for if each of its characters may stand in any pair."""
        found = dict.fromkeys("".join(word for word in words(text)[:_MAX_TERMS] if is_cjk(word)))
        slots = [
            Slot(one, tuple(Alternative((number,)) for number in self._speller.holding(one)))
            for one in found
        ]
        return Query(tuple(slots), tuple(found), ())

    def _mended(self, kept: list[str], filled: list[list[Alternative]]) -> list[tuple[str, str]]:
        """Fill both pairs around a wrong CJK character; return what was put for what."""
        rewrites = []
        for place, (left, right) in enumerate(zip(kept, kept[1:], strict=False)):
            pairs = (
                is_cjk(left) and is_cjk(right) and len(left) == len(right) and left[1:] == right[:1]
            )
            if not pairs or filled[place] or filled[place + 1]:
                continue
            numbers = self._speller.between(left[0], right[-1])
            if numbers is not None:
                filled[place].append(Alternative((numbers[0],)))
                filled[place + 1].append(Alternative((numbers[1],)))
                rewrites.append((left, self._index.vocabulary[numbers[0]]))
        return rewrites

    def _own(self, term: str) -> list[Alternative]:
        """Return the term itself where it is known, and the two words it may be made of."""
        number = self._index.number(term)
        found = [] if number is None else [Alternative((number,))]
        weight = 1.0 if number is None else _SPLIT_WEIGHT
        return found + [Alternative(parts, weight) for parts in self._parts(term)]

    def _parts(self, term: str) -> list[tuple[int, int]]:
        """Return the pair of known words that a word is made of, the more frequent one, if any."""
        if is_cjk(term) or not term.isalpha():
            return []
        pairs = []
        for at in range(_SHORTEST_PART, len(term) - _SHORTEST_PART + 1):
            left, right = self._index.number(term[:at]), self._index.number(term[at:])
            if left is not None and right is not None:
                common = min(self._index.frequency(left), self._index.frequency(right))
                pairs.append((common, left, right))
        return [max(pairs)[1:]] if pairs else []

    def _joined(self, kept: list[str]) -> Iterator[tuple[int, Alternative]]:
        """Yield neighbours written as one word ("head set"), for both of their places."""
        for place, (left, right) in enumerate(zip(kept, kept[1:], strict=False)):
            number = None if is_cjk(left) or is_cjk(right) else self._index.number(left + right)
            if number is not None:
                yield place, Alternative((number,))
                yield place + 1, Alternative((number,))

    def _synonymous(self, kept: list[str]) -> Iterator[tuple[int, Alternative]]:
        for first in range(len(kept)):
            for last in range(first + 1, min(first + self._longest, len(kept)) + 1):
                for other in self._synonyms.get(tuple(kept[first:last]), ()):
                    numbers = tuple(self._index.number(term) for term in other)
                    known = tuple(number for number in numbers if number is not None)
                    if len(known) == len(numbers):
                        for place in range(first, last):
                            yield place, Alternative(known, _SYNONYM_WEIGHT)
