"""SQL of what a declaration reads in its own way: times, event types, quantities of returns."""

from collections.abc import Mapping
from typing import Final

from contracts import columns as c
from contracts.events import DISLIKE, EVENT_TYPES, RATING_EVENT, RETURN
from lake.conversion import MICROS_PATTERN, moment_of, number_of, raw_cell, whole_number_of
from lake.sql import literal, quoted

# Units of one Unix time in microseconds, and a decimal that holds it with its fraction.
UNIX: Final = {
    "unix_s": (1_000_000, "DECIMAL(20, 6)"),
    "unix_ms": (1_000, "DECIMAL(20, 3)"),
    "unix_us": (1, "DECIMAL(20, 0)"),
}
FARTHEST: Final = 90_000_000_000_000_000
# A zone after a time of day: Z, an offset, or a name.
ZONED: Final = (
    "':[0-9]{2}([.,][0-9]+)?\\s*([Zz]|UTC|GMT|[+-][0-9]{2}(:?[0-9]{2})?|[A-Za-z_]+/[A-Za-z_/]+)$'"
)
# What of an unknown event type may be told: a word, no address or number of somebody.
TELLABLE: Final = "[\\p{L}_][\\p{L}0-9_ .:/-]{0,39}"


def moment_in(text: str, form: str, zone: str) -> str:
    """SQL: text as a time, in one of the forms of a declaration; null if it is none.

    A time without zone is local in `zone`. What its clock skips is moved on by the gap; of two
    readings the later one is taken.
    """
    if form in UNIX:
        micros, kind = UNIX[form]
        number = f"try_cast(try_cast({text} AS {kind}) * {micros} AS BIGINT)"
        return f"CASE WHEN abs({number}) < {FARTHEST} THEN make_timestamptz({number}) END"
    local = f"AT TIME ZONE {literal(zone)}"
    if form != "iso":
        parsed = f"try_strptime({text}, {literal(form)})"
        return parsed if "%z" in form.lower() else f"({parsed} {local})"
    if zone == "UTC":
        return moment_of(text)
    moment = (
        f"CASE WHEN regexp_full_match({text}, '{MICROS_PATTERN}') "
        f"THEN make_timestamptz(try_cast({text} AS BIGINT)) "
        f"WHEN regexp_matches({text}, {ZONED}) THEN try_cast({text} AS TIMESTAMPTZ) "
        f"WHEN isfinite(try_cast({text} AS TIMESTAMP)) "
        f"THEN try_cast({text} AS TIMESTAMP) {local} END"
    )
    return f"CASE WHEN isfinite({moment}) THEN {moment} END"


def event_type_of(
    event_types: Mapping[str, str], *, quantity: str, positive_rating: float | None
) -> tuple[str, str]:
    """Return SQL of event_type, and of quantity ("" where it is read as usual)."""
    raw = raw_cell(c.EVENT_TYPE)
    kind = _listed(raw, event_types) if event_types else raw
    given = whole_number_of(raw_cell(c.QUANTITY))
    returned = literal(EVENT_TYPES[RETURN])
    amount = ""
    if quantity == "return":
        kind = f"CASE WHEN {given} < 0 THEN {returned} ELSE {kind} END"
        amount = f"abs({given})"
    elif quantity == "of_returns":
        amount = f"CASE WHEN {kind} = {returned} THEN -({given}) ELSE {given} END"
    if positive_rating is not None:
        rating = number_of(raw_cell(c.RATING))
        kind = (
            f"CASE WHEN {kind} = {literal(EVENT_TYPES[RATING_EVENT])} "
            f"AND {rating} < {positive_rating!r} "
            f"THEN {literal(EVENT_TYPES[DISLIKE])} ELSE {kind} END"
        )
    return kind, amount


def unlisted(raw: str, event_types: Mapping[str, str], *, secret: bool) -> str:
    """SQL: the rule that a row breaks whose event type has no entry, which it names unless secret.

    Only what reads like a name is named: a column that was mapped by mistake may hold anything.
    """
    unnamed = "'event_type has an entry in event_types'"
    named = f"concat('event_type ''', {raw}, ''' has an entry in event_types')"
    tellable = f"regexp_full_match({raw}, '{TELLABLE}')"
    rule = unnamed if secret else f"CASE WHEN {tellable} THEN {named} ELSE {unnamed} END"
    absent = f"({_listed(raw, event_types)}) IS NULL"
    return f"CASE WHEN {raw} IS NOT NULL AND {absent} THEN {rule} END"


def _listed(raw: str, event_types: Mapping[str, str]) -> str:
    cases = " ".join(
        f"WHEN {raw} {_like(theirs)} THEN {literal(ours)}" for theirs, ours in event_types.items()
    )
    return f"CASE {cases} END"


def _like(pattern: str) -> str:
    if "*" not in pattern and "?" not in pattern:
        return f"= {literal(pattern)}"
    return f"GLOB {literal(pattern.replace('[', '[[]'))}"


def items_query(texts: Mapping[str, str], *, priced: bool) -> str:
    """Return SQL over `lines` of one item per file and day; `texts`: column of items -> of lines.

    Without prices and texts nothing changes in a day, so there is one per file.
    """
    texts = {ours: quoted(name) for ours, name in texts.items()}
    by = f"file_no, {c.ITEM_ID}" + (", day" if texts or priced else "")
    given = "".join(f", {name}" for name in texts.values())
    seen = (
        f"seen AS (SELECT file_no, {c.ITEM_ID}, {c.EVENT_TIMESTAMP}, "
        f"CASE WHEN {c.PRICE} > 0 THEN {c.PRICE} END AS {c.PRICE}, "
        f"CAST({c.EVENT_TIMESTAMP} AS DATE) AS day{given} "
        f"FROM lines WHERE {c.ITEM_ID} IS NOT NULL AND {c.EVENT_TIMESTAMP} IS NOT NULL)"
    )
    often = [
        f"often_{n} AS (SELECT {by}, first(said ORDER BY n DESC, said) AS {quoted(ours)} FROM "
        f"(SELECT {by}, {name} AS said, count(*) AS n FROM seen WHERE {name} IS NOT NULL "
        f"GROUP BY ALL) GROUP BY ALL)"
        for n, (ours, name) in enumerate(texts.items())
    ]
    joined = "".join(f" LEFT JOIN often_{n} USING ({by})" for n in range(len(texts)))
    told = "".join(f", any_value({quoted(ours)}) AS {quoted(ours)}" for ours in texts)
    title = "" if c.TITLE in texts else f", CAST(NULL AS VARCHAR) AS {c.TITLE}"
    return (
        f"WITH {', '.join([seen, *often])} "
        f"SELECT {c.ITEM_ID}, min({c.EVENT_TIMESTAMP}) AS {c.VALID_FROM}, "
        f"median(seen.{c.PRICE}) AS {c.PRICE}{title}{told} "
        f"FROM seen{joined} GROUP BY {by} ORDER BY {c.VALID_FROM}, {c.ITEM_ID}"
    )
