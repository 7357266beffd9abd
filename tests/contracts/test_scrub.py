"""Free text: addresses and numbers of people go, everything else that has digits stays."""

import time

import pyarrow as pa
import pytest

from contracts.scrub import FREE_TEXT, scrub
from contracts.tables import TABLES

PHONES = [
    "0800-123 4567",
    "+44 20 7946 0958",
    "13812345678",
    "(030) 123456-78",
    "+49 (0)30 123456",
    "+49 30 123456-78",
    "+4915112345678",
    "0049 30 1234567",
    "004915112345678",
    "030 / 1234567",
    "030/1234567",
    "0171 1234567",
    "01711234567",
    "017612345678",
    "020 7946 0958",
    "0121 496 0000",
    "07700 900123",
    "07700900123",
    "(020) 7946 0958",
    "(212) 555-0123",
    "212-555-0123",
    "+1 212 555 0123",
    "+86 138 1234 5678",
    "+8613812345678",
    "86-13812345678",
    "138 1234 5678",
    "138-1234-5678",
    "010-12345678",
    "0755-88886666",
    "033203/12345",
    "(0755)88886666",
    "400-820-8820",
    "400 820 8820",
]
NO_PHONES = [
    "2024-01-02",
    "2024-01-02T10:00:00Z",
    "01.02.2024",
    "02/01/2024 12:30",
    "12345",
    "9783161484100",
    "978-3-16-148410-0",
    "0-306-40615-2",
    "0306406152",
    "0885909950805",
    "0049000028904",
    "4 006381 333931",
    "4 012345 678901",
    "10 x 20 cm",
    "120x60x75",
    "£12.50",
    "1.299,00 €",
    "¥12800000000",
    "$ 1,299,000.00",
    "0.5 l",
    "0.01234567890",
    "85123A",
    "order 536365-2010",
    "SKU-0800-123-4567",
    "100% 1000 2000",
    "1080p 4000mAh 2023",
    "10000000000000",
    "192.168.100.200",
    "A4 80 g/m2 500",
    "150 000 000",
]
E_MAILS = [
    "ann@shop.de",
    "Ann.Miller+shop@mail.example.co.uk",
    "müller@bücher.de",
    "ann (at) shop.de",
    "ann[at]shop[dot]de",
    "o'neil@example.com",
    "a_b-c%d@x-y.org",
    "12345@qq.com",
    "ann＠shop.cn",
]


@pytest.mark.parametrize("phone", PHONES)
def test_a_phone_number_goes(phone: str) -> None:
    assert _scrubbed(phone) == "[phone]"
    assert _scrubbed(f"Call {phone}, please.") == "Call [phone], please."
    assert _scrubbed(f"请打{phone}谢谢") == "请打[phone]谢谢"
    assert _scrubbed(f"({phone})") == "([phone])"


@pytest.mark.parametrize("text", NO_PHONES)
def test_what_is_no_phone_number_stays(text: str) -> None:
    for sentence in (text, f"It says {text}, fine.", f"好{text}的"):
        assert _scrubbed(sentence) == sentence


@pytest.mark.parametrize("address", E_MAILS)
def test_an_address_goes(address: str) -> None:
    assert _scrubbed(address) == "[e-mail]"
    assert _scrubbed(f"Write to <{address}>.") == "Write to <[e-mail]>."
    assert _scrubbed(f"我的邮箱是{address}谢谢") == "我的邮箱是[e-mail]谢谢"


def test_words_tell_a_number() -> None:
    assert _scrubbed("Tel. 1234567") == "Tel. [phone]"
    assert _scrubbed("Telefon: 030 12345") == "Telefon: [phone]"
    assert _scrubbed("电话：82345678") == "电话：[phone]"
    assert _scrubbed("Tel.0171 1234567") == "Tel.[phone]"
    for text in ("iPhone 14 256", "a hotel 2024", "mobile 2024-01-02", "Handy 4000 mAh"):
        assert _scrubbed(text) == text


def test_several_in_one_text_and_nothing_else_changed() -> None:
    text = "0171 1234567, 0172 7654321;ann@a.de,bob@b.de\n(030) 123456-78 13812345678 13912345678"
    assert _scrubbed(text) == ("[phone], [phone];[e-mail],[e-mail]\n[phone] [phone] [phone]")
    assert _scrubbed("@home, 3 @ 5 each, a@b") == "@home, 3 @ 5 each, a@b"


def test_nulls_chunks_and_types() -> None:
    column = pa.chunked_array([["a@b.de", None], pa.array([], pa.string()), ["x"]])
    found = scrub(column)
    assert found.to_pylist() == ["[e-mail]", None, "x"] and found.type == pa.string()
    assert scrub(pa.array([], pa.large_string())).to_pylist() == []
    assert scrub(pa.nulls(2)).to_pylist() == [None, None]


def test_the_columns_are_there() -> None:
    for table, names in FREE_TEXT.items():
        assert set(names) <= set(TABLES[table].schema.names)


def test_a_hundred_thousand_reviews_in_a_few_seconds() -> None:
    texts = pa.array(["A fine cup, 10 x 20 cm, bought 2024-01-02 for £12.50. " * 4] * 100_000)
    began = time.process_time()
    assert scrub(texts).equals(texts)
    assert time.process_time() - began < 10


def _scrubbed(text: str) -> str:
    found: str = scrub(pa.array([text])).to_pylist()[0]
    return found
