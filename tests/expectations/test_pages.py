"""The page shows what was broken, loads nothing, and lets no value become markup."""

import json
import re
from datetime import UTC, datetime
from html.parser import HTMLParser

import pyarrow as pa

from contracts import columns as c
from contracts.tables import table_spec
from expectations.gate import ExpectationGate
from expectations.pages import broken_rules, validation_markdown, validation_page

NOW = datetime(2026, 3, 1, tzinfo=UTC)
ATTACK = "<script>alert('x')</script>|\x07"


def gate_result() -> dict[str, object]:
    schema = table_spec("items").schema
    rows = [{c.ITEM_ID: ATTACK, c.VALID_FROM: NOW, c.TITLE: "t"}]
    columns = [pa.array([row.get(field.name) for row in rows], field.type) for field in schema]
    batch = pa.table(columns, schema=schema).append_column(c.ROW_ID, pa.array([0]))
    return ExpectationGate(now=NOW)("items", batch).result


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)


def test_the_page_shows_the_value_as_text_and_loads_nothing() -> None:
    page = validation_page([gate_result()], "Ingest <of> today")
    tags = Tags()
    tags.feed(page)
    assert not {"script", "img", "link", "iframe"} & set(tags.seen)
    assert "&lt;script&gt;alert(" in page
    assert "<title>Ingest &lt;of&gt; today</title>" in page
    assert not re.search(r"https?://|url\(|src=|@import", page)
    assert "1 batches, 1 rows: 0 accepted, 1 quarantined." in page


def test_a_page_without_batches_says_so() -> None:
    assert "No batch was validated." in validation_page([], "Nothing")


def test_markdown_sums_batches_and_keeps_its_table_whole() -> None:
    result = gate_result()
    text = validation_markdown([result, result])
    assert text.startswith("2 batches, 2 rows: 0 accepted, 2 quarantined.")
    rule = "item_id is 1 to 256 characters without control characters"
    assert f"| items | {rule} | 2 |" in text
    assert broken_rules([result, result]) == [(("items", rule), 2)]
    hostile = {
        "table": "t",
        "rows": 1,
        "bad": 1,
        "expectations": [{"rule": "a|<b>\n", "broken": 1}],
    }
    assert "| t | a\\|&lt;b&gt; | 1 |" in validation_markdown([hostile])


def test_results_survive_json() -> None:
    result = gate_result()
    assert json.loads(json.dumps(result, allow_nan=False)) == result
