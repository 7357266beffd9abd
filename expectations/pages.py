"""Validation results for people: a self-contained page, and markdown for a Prefect artifact."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, Final

_STYLE: Final = """
:root { color-scheme: light; }
body { margin: 2.5rem auto; max-width: 62rem; padding: 0 1.25rem; background: #fff; color: #1d2329;
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; } h2 { font-size: 1.1rem; margin: 2.25rem 0 .5rem; }
p { margin: .25rem 0 .75rem; color: #57606a; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .4rem .6rem; border-bottom: 1px solid #e6e9ec;
  vertical-align: top; }
th { font-weight: 600; color: #57606a; font-size: .85rem; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.kept { color: #1a7f4b; } .broken { color: #b3261e; font-weight: 600; }
code { font: 13px/1.5 ui-monospace, Menlo, Consolas, monospace; background: #f4f6f8;
  border-radius: 4px; padding: .05rem .3rem; overflow-wrap: anywhere; }
"""


def validation_page(results: Sequence[Mapping[str, Any]], title: str) -> str:
    """Return one HTML page over `result`s of ValidatedBatch; text is escaped, nothing is loaded."""
    body = "".join(_section(result) for result in results) or "<p>No batch was validated.</p>"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body><h1>{escape(title)}</h1><p>{escape(_total(results))}</p>{body}</body></html>\n"
    )


def validation_markdown(results: Sequence[Mapping[str, Any]]) -> str:
    """Return markdown: the totals, and a table of the rules that rows broke, most broken first."""
    lines = [_total(results), ""]
    counts = broken_rules(results)
    if counts:
        lines += ["| table | rule | rows |", "| --- | --- | ---: |"]
        lines += [f"| {_cell(table)} | {_cell(rule)} | {n:,} |" for (table, rule), n in counts]
    return "\n".join(lines).rstrip() + "\n"


def broken_rules(results: Iterable[Mapping[str, Any]]) -> list[tuple[tuple[str, str], int]]:
    """Return ((table, rule), rows) summed over results, most broken first; kept rules left out."""
    counts: dict[tuple[str, str], int] = {}
    for result in results:
        for entry in result["expectations"]:
            if entry["broken"]:
                key = (result["table"], entry["rule"])
                counts[key] = counts.get(key, 0) + entry["broken"]
    return sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))


def _total(results: Sequence[Mapping[str, Any]]) -> str:
    rows, bad = sum(r["rows"] for r in results), sum(r["bad"] for r in results)
    return f"{len(results):,} batches, {rows:,} rows: {rows - bad:,} accepted, {bad:,} quarantined."


def _cell(text: str) -> str:
    """Escape what would end a markdown cell or start HTML in it."""
    return escape(" ".join(str(text).split()), quote=False).replace("|", "\\|")


def _section(result: Mapping[str, Any]) -> str:
    good = result["rows"] - result["bad"]
    rows = "".join(_row(entry) for entry in result["expectations"])
    return (
        f"<h2>{escape(str(result['table']))}</h2>"
        f"<p>{result['rows']:,} rows: {good:,} accepted, {result['bad']:,} quarantined. "
        f"Checked as of {escape(str(result['checked_at']))}.</p>"
        '<table><thead><tr><th>rule</th><th class="number">rows checked</th>'
        '<th class="number">broken by</th><th>examples</th></tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )


def _row(entry: Mapping[str, Any]) -> str:
    kept = "kept" if entry["success"] else "broken"
    examples = " ".join(f"<code>{escape(str(value))}</code>" for value in entry["examples"])
    return (
        f'<tr><td>{escape(str(entry["rule"]))}</td><td class="number">{entry["rows"]:,}</td>'
        f'<td class="number {kept}">{entry["broken"]:,}</td><td>{examples}</td></tr>'
    )
