"""Texts of the generated shop, English and Chinese: catalogue, reviews, search queries."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lake import generator_words as words
from lake.generator_world import DEPARTMENTS, Ints, World, stream

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Labels:
    """Strings aligned with the I items and U shoppers of a world."""

    item_id: pa.Array
    title: pa.Array
    description: pa.Array
    category: pa.Array
    brand: pa.Array
    tags: pa.Array  # joined by "|"
    noun: pa.Array
    noun_zh: pa.Array
    style: pa.Array
    style_zh: pa.Array
    user_id: pa.Array
    country: pa.Array
    chinese: Bools  # (U,) who writes Chinese


def numbered(prefix: str, numbers: Ints, width: int) -> pa.Array:
    """Return ids such as u000123; numbers wider than `width` keep all their digits."""
    digits = pc.utf8_lpad(pa.array(numbers).cast(pa.string()), width, "0")
    return join(prefix, digits)


def join(*parts: pa.Array | str) -> pa.Array:
    """Join string columns and constants, row by row; null if a part is null."""
    return pc.binary_join_element_wise(*parts, "")


def pick(names: Sequence[str], positions: Ints) -> pa.Array:
    """Return names by position."""
    return pa.array(names, pa.string()).take(pa.array(positions))


def make_labels(world: World, seed: int) -> Labels:
    """Write the texts of every item and the ids of every shopper."""
    rng = stream(seed, 6)
    count = len(world.leaf_of)
    leaves = words.LEAVES
    serial = join(
        pick("ABCDEFGHKLMN", world.item_number % 12),
        pa.array(100 + world.item_number * 37 % 900).cast(pa.string()),
    )
    brands = [p + words.BRAND_SUFFIXES[d] for d in DEPARTMENTS for p in words.BRAND_PREFIXES]
    quality = np.minimum((world.quality * 3).astype(np.int64), 2)
    parts = {
        "brand": pick(brands, world.brand_of),
        "noun": pick([leaf.noun for leaf in leaves], world.leaf_of),
        "noun_zh": pick([leaf.noun_zh for leaf in leaves], world.leaf_of),
        "style": pick([english for english, _ in words.STYLES], world.style_of),
        "style_zh": pick([chinese for _, chinese in words.STYLES], world.style_of),
        "grade": pick([english for english, _ in words.QUALITY_WORDS], quality),
        "grade_zh": pick([chinese for _, chinese in words.QUALITY_WORDS], quality),
        "end": pick(words.DESCRIPTION_ENDS, _draw(rng, count, len(words.DESCRIPTION_ENDS))),
        "end_zh": pick(
            words.DESCRIPTION_ENDS_ZH, _draw(rng, count, len(words.DESCRIPTION_ENDS_ZH))
        ),
    }
    in_chinese, in_both = rng.random(count) < 0.3, rng.random(count) < 0.5
    countries = [name for name, _ in words.COUNTRIES]
    return Labels(
        item_id=numbered("i", world.item_number, 6),
        title=_titles(parts, serial, in_chinese),
        description=_descriptions(parts, in_chinese, in_both),
        category=pick([leaf.path for leaf in leaves], world.leaf_of),
        brand=parts["brand"],
        tags=_tags(parts, world),
        noun=parts["noun"],
        noun_zh=parts["noun_zh"],
        style=parts["style"],
        style_zh=parts["style_zh"],
        user_id=numbered("u", np.arange(len(world.country)), 6),
        country=pick(countries, world.country),
        chinese=np.isin(np.array(countries)[world.country], words.CHINESE_COUNTRIES),
    )


def queries(labels: Labels, items: Ints, chinese: Bools, kind: Ints) -> pa.Array:
    """Return what each searcher typed: 0 the noun, 1 style and noun, 2 brand and noun."""
    at = pa.array(items)
    noun, style, brand = labels.noun.take(at), labels.style.take(at), labels.brand.take(at)
    noun_zh, style_zh = labels.noun_zh.take(at), labels.style_zh.take(at)
    english = _case(kind, noun, join(style, " ", noun), join(brand, " ", noun))
    in_chinese = _case(kind, noun_zh, join(style_zh, noun_zh), join(brand, noun_zh))
    return pc.if_else(pa.array(chinese), in_chinese, pc.utf8_lower(english))


def reviews(
    labels: Labels, items: Ints, stars: Ints, chinese: Bools, rng: np.random.Generator
) -> pa.Array:
    """Return a review text for each item and its stars, 1 to 5."""
    at = pa.array(items)
    ending = _draw(rng, len(items), len(words.REVIEW_ENDINGS))
    english = join(
        pick(words.REVIEW_OPENINGS, stars - 1), " The ", pc.utf8_lower(labels.style.take(at)), " ",
        pc.utf8_lower(labels.noun.take(at)), ": ", pick(words.REVIEW_ENDINGS, ending),
    )  # fmt: skip
    in_chinese = join(
        pick(words.REVIEW_OPENINGS_ZH, stars - 1), labels.style_zh.take(at),
        labels.noun_zh.take(at), "，", pick(words.REVIEW_ENDINGS_ZH, ending),
    )  # fmt: skip
    return pc.if_else(pa.array(chinese), in_chinese, english)


def _titles(parts: dict[str, pa.Array], serial: pa.Array, in_chinese: Bools) -> pa.Array:
    english = join(
        parts["brand"], " ", parts["style"], " ", parts["noun"], " ", parts["grade"], " ", serial
    )
    chinese = join(
        parts["brand"], " ", parts["style_zh"], parts["noun_zh"], " ", parts["grade_zh"], serial
    )
    return pc.if_else(pa.array(in_chinese), chinese, english)


def _descriptions(parts: dict[str, pa.Array], in_chinese: Bools, in_both: Bools) -> pa.Array:
    english = join(
        parts["style"], " ", pc.utf8_lower(parts["noun"]), " by ", parts["brand"], ", ",
        pc.utf8_lower(parts["grade"]), " quality. ", parts["end"],
    )  # fmt: skip
    chinese = join(
        parts["brand"], parts["style_zh"], parts["noun_zh"], "，", parts["grade_zh"], "。",
        parts["end_zh"],
    )  # fmt: skip
    first = pc.if_else(pa.array(in_chinese), chinese, english)
    second = pc.if_else(pa.array(in_chinese), english, chinese)
    return pc.if_else(pa.array(in_both), join(first, " ", second), first)


def _tags(parts: dict[str, pa.Array], world: World) -> pa.Array:
    gift = np.array([leaf.gift >= 0.5 for leaf in words.LEAVES])[world.leaf_of]
    refill = world.repeat_days[world.leaf_of] > 0
    return pc.utf8_lower(
        join(
            pc.replace_substring(parts["noun"], " ", "-"), "|", parts["style"], "|", parts["grade"],
            pick(["", "|gift"], gift.astype(np.int64)),
            pick(["", "|refill"], refill.astype(np.int64)),
        )
    )  # fmt: skip


def _case(kind: Ints, *choices: pa.Array) -> pa.Array:
    return pc.choose(pa.array(kind), *choices)


def _draw(rng: np.random.Generator, count: int, below: int) -> Ints:
    return np.asarray(rng.random(count) * below).astype(np.int64)
