"""The page shows what was broken, loads nothing, and lets no value become markup."""

import json
import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any

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


def batch_result(*, blocked: bool) -> dict[str, Any]:
    days = [
        {
            "day": f"2026-02-{n:02d}",
            "seen": "9 rows",
            "usual": "400 rows",
            "expected": "84 rows",
            "kept": n > 1,
        }
        for n in range(1, 21)
    ]
    entry = {
        "rule": "not far fewer rows than <usual>",
        "severity": "block" if blocked else "warn",
        "column": None,
        "success": False,
        "rows": 20,
        "broken": 1,
        "examples": [],
        "expected": "at least 84 rows",
        "seen": "9 rows | on 2026-02-01 (Sunday)",
        "days": days,
    }
    kept = {**entry, "rule": "items are known", "success": True, "broken": 0}
    return {
        "table": "interactions",
        "source": "shop<1>",
        "kind": "batch",
        "checked_at": NOW.isoformat(),
        "rows": 9,
        "bad": 0,
        "success": False,
        "blocked": blocked,
        "expectations": [entry, kept],
        "notes": ["2 rows repeat & more"],
    }


def test_a_blocked_batch_comes_first_with_expected_and_seen_and_its_days() -> None:
    results = [gate_result(), batch_result(blocked=False), batch_result(blocked=True)]
    page = validation_page(results, "Ingest")
    tags = Tags()
    tags.feed(page)
    assert not {"script", "img", "link", "iframe"} & set(tags.seen)
    assert page.index("blocked: nothing of it landed") < page.index("landed, with warnings")
    assert page.index("landed, with warnings") < page.index("<h2>items</h2>")
    assert "<b>blocks:</b> not far fewer rows than &lt;usual&gt;. Expected at least 84 rows" in page
    assert "interactions from shop&lt;1&gt;" in page
    assert '<td>2026-02-01</td><td class="number broken">9 rows</td>' in page
    assert "and 6 more days" in page
    assert "2 rows repeat &amp; more" in page
    # The rows of the gate alone are counted; the batch's own would count them twice.
    assert "1 batches, 1 rows: 0 accepted, 1 quarantined. 1 feeds blocked" in page


def test_a_batch_that_an_operator_let_in_says_why_and_is_not_called_blocked() -> None:
    page = validation_page(
        [{**batch_result(blocked=True), "accepted_because": "a <sale> day"}], "x"
    )
    assert "although it was blocked: a &lt;sale&gt; day" in page
    assert "feeds blocked" not in page


def test_markdown_tells_of_batches_too() -> None:
    text = validation_markdown([batch_result(blocked=True), gate_result()])
    row = "| interactions | block | not far fewer rows than &lt;usual&gt; | at least 84 rows "
    assert row + "| 9 rows \\| on 2026-02-01 (Sunday) |" in text
    assert broken_rules([batch_result(blocked=True)]) == []
