"""What a shopper is told of a search that was understood otherwise than it was written."""

from collections.abc import Sequence
from typing import Final

from contracts.wire_search import Relaxed
from models.search.terms import is_cjk

_ENGLISH: Final[dict[str, str]] = {
    "most": "No product has all of these words; these have most of them.",
    "any": "No product has most of these words; these have some of them.",
    "similar": "No product has any of these words; these are the most similar.",
    "popular": "Nothing like it was found; these are popular now.",
    "building": "Search is being made ready; these are popular now.",
    "empty": "No product meets the filters; take one away to see more.",
    "instead": "Searched for “{searched}” instead of “{written}”.",
    "between": " ",
}
_CHINESE: Final[dict[str, str]] = {
    "most": "没有商品包含全部关键词，以下商品包含其中大部分。",
    "any": "没有商品包含大部分关键词，以下商品包含其中一部分。",
    "similar": "没有商品包含这些关键词，以下是最相近的商品。",
    "popular": "没有找到相关商品，以下是热门商品。",
    "building": "搜索正在准备中，以下是热门商品。",
    "empty": "没有符合筛选条件的商品，请减少筛选条件。",
    "instead": "已将“{written}”换成“{searched}”搜索。",
    "between": "",
}


def message(
    query: str,
    relaxed: Relaxed,
    rewrites: Sequence[tuple[str, str]],
    *,
    ready: bool = True,
    empty: bool = False,
) -> str | None:
    """Return sentences for the shopper, in Chinese for a query with a Chinese character; None where
    the query was searched for as it stands.

    `ready` is false while there is no index, `empty` true where no item meets the filters.
    """
    told = _CHINESE if any(is_cjk(character) for character in query) else _ENGLISH
    sentences = [told["instead"].format(written=old, searched=new) for old, new in rewrites]
    if empty:
        sentences.append(told["empty"])
    elif relaxed == "popular" and not ready:
        sentences.append(told["building"])
    elif relaxed != "none":
        sentences.append(told[relaxed])
    return told["between"].join(sentences) or None
