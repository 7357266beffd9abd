"""Which items are one product in other colours or sizes, by what their titles say."""

from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.base import IntArray

_SHADES: Final = "light|dark|pale|bright|deep|navy|royal|sky|baby|off|hot|neon|pastel|rose|matte?"
_COLOURS: Final = (
    "black|white|gr[ae]y|silver|gold|golden|red|pink|purple|violet|lilac|blue|navy|turquoise|teal"
    "|cyan|aqua|green|khaki|olive|yellow|orange|brown|beige|ivory|tan|taupe|burgundy|maroon|magenta"
    "|multi ?colou?r(?:ed)?|transparent"
)
_SIZES: Final = (
    "xxs|xs|s|m|l|xl|xxl|xxxl|[2-6]xl|extra (?:small|large)|small|medium|large|one size"
    r"|(?:size|eu|uk|us) \d+(?: 5)?"
    r"|\d+(?: ?x ?\d+)+(?: ?(?:mm|cm|m|in|inch|inches))?"
    r"|\d+(?: \d+)? ?(?:ml|cl|l|lit[er]{2}s?|oz|g|kg|lbs?|mm|cm|m|inch|inches)"
)
_CHINESE: Final = (
    "[浅深亮暗淡]?(?:粉红|玫红|天蓝|藏青|咖啡|玫瑰金|[红黑白蓝绿黄紫粉灰棕橙金银米青褐])色"
    "|(?:加大|特大|超大|[大中小均])[号码]"
)
_SAID: Final = rf"\b(?:(?:(?:{_SHADES}) )*(?:{_COLOURS})|{_SIZES})\b|{_CHINESE}"


def title_stems(titles: pa.Array) -> pa.Array:
    """Return titles in lower case without punctuation and without words of colour and size.

    English and Chinese words; "" where nothing is left.

    >>> title_stems(pa.array(["T-Shirt, light blue, XL", "Mug 250 ml", "红色杯子"])).to_pylist()
    ['t shirt', 'mug', '杯子']
    """
    plain = pc.replace_substring_regex(pc.utf8_lower(titles), r"[\p{P}\p{S}\s]+", " ")
    stems = pc.replace_substring_regex(plain, _SAID, " ")
    return pc.utf8_trim_whitespace(pc.replace_substring_regex(stems, r"\s+", " "))


def variant_codes(titles: pa.Array, brands: pa.Array, categories: pa.Array) -> IntArray:
    """Return the group of each of I items, (I,) int32: variants are equal in title stem, brand and
    category.

    -1 for an item without variants: nothing is left of its title, or no other item is like it.

    >>> variant_codes(
    ...     pa.array(["Red mug", "Blue mug", "Mug stand", "Red"]),
    ...     pa.array(["Acme"] * 4),
    ...     pa.array(["kitchen"] * 4),
    ... ).tolist()
    [0, 0, -1, -1]
    """
    if len(titles) == 0:
        return np.empty(0, np.int32)
    stems = title_stems(titles)
    kind = stems.type  # `string`, or `large_string` where titles are long
    joined = (stems, brands.cast(kind), categories.cast(kind), pa.scalar("\x1f", kind))
    keys = pc.binary_join_element_wise(*joined)
    codes = np.asarray(pc.dictionary_encode(keys).indices, dtype=np.int32)
    alone = np.bincount(codes)[codes] < 2
    unnamed = np.asarray(pc.equal(stems, ""))
    codes = np.where(alone | unnamed, np.int32(-1), codes)
    _, dense = np.unique(codes[codes >= 0], return_inverse=True)
    codes[codes >= 0] = dense
    return codes.astype(np.int32)
