"""Free text without e-mail addresses and phone numbers: what shoppers write must not name them.

A run of digits is a phone number when it is written as people write one: with the sign of an
international call, with an area code apart or in brackets, a national number of eleven digits from
zero, a Chinese mobile number, an American one, or behind a word like `Tel.`. Prices, dates, sizes,
article numbers (EAN, ISBN, UPC) and order numbers stay.
"""

from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from contracts import columns as c

E_MAIL_MARK: Final = "[e-mail]"
PHONE_MARK: Final = "[phone]"

FREE_TEXT: Final = {
    "reviews": (c.TEXT,),
    "searches": (c.QUERY,),
}
"""Which columns of a table people write freely; besides, every column taken beyond the schema."""

# Letters of Latin scripts only: Chinese is written without blanks around an address.
_LETTER: Final = r"A-Za-z0-9\x{00C0}-\x{024F}"
_AT: Final = r"\s?(?:@|＠|\(at\)|\[at\]|\(AT\)|\[AT\])\s?"
_DOT: Final = r"(?:\.|\s?(?:\(dot\)|\[dot\]|\(punkt\)|\[punkt\])\s?)"
E_MAIL: Final = (
    rf"[{_LETTER}][{_LETTER}._%+'\-]*{_AT}"
    rf"[{_LETTER}](?:[{_LETTER}\-]*[{_LETTER}])?(?:{_DOT}[{_LETTER}](?:[{_LETTER}\-]*[{_LETTER}])?)+"
)

_BEHIND: Final = r"(?i:tel|telefon|telephone|fon|phone|fax|mob|mobil|mobile|handy|whatsapp|cell)"
_SAID: Final = rf"(?:\b{_BEHIND}|电话|手机|手机号|手机号码|电话号码|热线)"
_PHONES: Final = (
    # +49 (0)30 123456-78, +44 20 7946 0958, +86 138 1234 5678
    r"\+\s?[1-9](?:[\s.\-/()]{0,3}\d){7,14}",
    # 0044 20 7946 0958; unbroken only where no article number is as long
    r"00[1-9]\d{0,2}[\s\-/](?:[\s.\-/()]{0,3}\d){7,12}",
    r"00[1-9]\d{12}",
    # (030) 123456-78, (020) 7946 0958, (0755)88886666, (212) 555-0123
    r"\(0\d{1,5}\)[\s\-/]{0,3}\d(?:[\s\-/.]?\d){3,9}",
    r"\([2-9]\d{2}\)\s?\d{3}[\s\-.]\d{4}",
    # 0800-123 4567, 030 / 1234567, 020 7946 0958, 010-12345678
    r"0[1-9]\d{1,3}(?:\s?[\-/]\s?|\s|\.)\d(?:[\s\-/.]?\d){5,9}",
    r"0[1-9]\d{4}\s?[\-/]\s?\d(?:[\s\-/.]?\d){4,9}",  # apart by a blank it may be an EAN
    # 03012345678, 07700900123, and German mobile numbers of twelve digits
    r"0[1-9]\d{9}",
    r"01[5-7]\d{9}",
    # 212-555-0123, 400-820-8820, 13812345678, 138 1234 5678
    r"[2-9]\d{2}-\d{3}-\d{4}",
    r"[2-9]\d{2}\.\d{3}\.\d{4}",
    r"400[\s\-]\d{3,4}[\s\-]\d{3,4}",
    r"(?:86[\s\-]?)?1[3-9]\d[\s\-]?\d{4}[\s\-]?\d{4}",
)
# RE2 has no look-around: what stands before and behind is captured and put back.
_BEFORE: Final = rf"(^|[^0-9A-Za-z+.,\-/#£€$¥]|{_SAID}\s?[.:：]?\s?)"
_AFTER: Final = r"($|[^0-9A-Za-z£€$¥%])"
PHONE: Final = rf"{_BEFORE}(?:{'|'.join(_PHONES)}){_AFTER}"
# Behind such a word any run of seven digits and more is a number to call.
SAID_PHONE: Final = rf"({_SAID}[\s.:：#是为]{{0,4}})\+?\(?\d(?:[ /()]{{0,2}}\d){{6,14}}{_AFTER}"


def scrub(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Return texts with `[e-mail]` and `[phone]` for addresses and numbers; null stays null.

    >>> scrub(pa.array(["Ann, ann@shop.de or (030) 123456-78", "10 x 20 cm, £12.50"])).to_pylist()
    ['Ann, [e-mail] or [phone]', '10 x 20 cm, £12.50']
    """
    texts = pc.cast(column, pa.string())
    if isinstance(texts, pa.ChunkedArray):
        texts = texts.combine_chunks()
    texts = pc.replace_substring_regex(texts, E_MAIL, E_MAIL_MARK)
    texts = pc.replace_substring_regex(texts, SAID_PHONE, rf"\1{PHONE_MARK}\2")
    for _ in range(2):  # of two numbers with one character between, a pass takes one
        texts = pc.replace_substring_regex(texts, PHONE, rf"\1{PHONE_MARK}\2")
    return texts
