"""Validation results for people: a self-contained page, and markdown for a Prefect artifact.

A result is of rows (one per validated chunk) or, with kind "batch", of a whole batch against the
shop's past: its rules have `expected`, `seen` and a small table of days.
"""

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
.warned { color: #8a5a00; font-weight: 600; }
section.told { border-left: 4px solid #e0a100; background: #fffaf0; padding: .5rem 1rem;
  margin: 1rem 0; }
section.told.block { border-color: #b3261e; background: #fdf3f2; }
section.told p { color: #1d2329; } section.told th, section.told td { padding: .2rem .6rem; }
details { margin: .5rem 0; } summary { cursor: pointer; color: #57606a; }
code { font: 13px/1.5 ui-monospace, Menlo, Consolas, monospace; background: #f4f6f8;
  border-radius: 4px; padding: .05rem .3rem; overflow-wrap: anywhere; }
"""
SHOWN_DAYS: Final = 14
"""Days of a broken rule that the page lists; the JSON beside it has all."""


def validation_page(results: Sequence[Mapping[str, Any]], title: str) -> str:
    """Return one HTML page over results of gate and judge; text is escaped, nothing is loaded.

    Whole batches come first, what was blocked before all; then the rules about rows.
    """
    batches = sorted(
        (result for result in results if _is_batch(result)),
        key=lambda result: (not _refused(result), result["success"]),
    )
    body = "".join(_batch(result) for result in batches)
    body += "".join(_section(result) for result in _rows_results(results))
    body = body or "<p>No batch was validated.</p>"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body><h1>{escape(title)}</h1><p>{escape(_total(results))}</p>{body}</body></html>\n"
    )


def validation_markdown(results: Sequence[Mapping[str, Any]]) -> str:
    """Return markdown: the totals, what batches were blocked or odd, and a table of the rules that
    rows broke, most broken first.
    """
    lines = [_total(results), ""]
    told = [
        (entry["severity"], result, entry)
        for result in results
        if _is_batch(result)
        for entry in result["expectations"]
        if not entry["success"]
    ]
    if told:
        lines += ["| table | severity | rule | expected | seen |", "| --- " * 5 + "|"]
        lines += [
            f"| {_cell(result['table'])} | {severity} | {_cell(entry['rule'])} "
            f"| {_cell(entry['expected'])} | {_cell(entry['seen'])} |"
            for severity, result, entry in sorted(told, key=lambda item: item[0])
        ]
        lines.append("")
    counts = broken_rules(results)
    if counts:
        lines += ["| table | rule | rows |", "| --- | --- | ---: |"]
        lines += [f"| {_cell(table)} | {_cell(rule)} | {n:,} |" for (table, rule), n in counts]
    return "\n".join(lines).rstrip() + "\n"


def broken_rules(results: Iterable[Mapping[str, Any]]) -> list[tuple[tuple[str, str], int]]:
    """Return ((table, rule), rows) of the rules about rows, summed over results, most broken first;
    kept rules left out.
    """
    counts: dict[tuple[str, str], int] = {}
    for result in _rows_results(results):
        for entry in result["expectations"]:
            if entry["broken"]:
                key = (result["table"], entry["rule"])
                counts[key] = counts.get(key, 0) + entry["broken"]
    return sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))


def _is_batch(result: Mapping[str, Any]) -> bool:
    return result.get("kind") == "batch"


def _refused(result: Mapping[str, Any]) -> bool:
    return bool(result["blocked"]) and not result.get("accepted_because")


def _rows_results(results: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [result for result in results if not _is_batch(result)]


def _total(results: Sequence[Mapping[str, Any]]) -> str:
    of_rows = _rows_results(results)
    rows, bad = sum(r["rows"] for r in of_rows), sum(r["bad"] for r in of_rows)
    blocked = sum(1 for r in results if _is_batch(r) and _refused(r))
    text = f"{len(of_rows):,} batches, {rows:,} rows: {rows - bad:,} accepted, {bad:,} quarantined."
    return text + (f" {blocked:,} feeds blocked: nothing of them landed." if blocked else "")


def _cell(text: str) -> str:
    """Escape what would end a markdown cell or start HTML in it."""
    return escape(" ".join(str(text).split()), quote=False).replace("|", "\\|")


def _batch(result: Mapping[str, Any]) -> str:
    """Show what the rules over a whole batch said; rules that were kept are folded away."""
    broken = [entry for entry in result["expectations"] if not entry["success"]]
    kept = [entry for entry in result["expectations"] if entry["success"]]
    verdict = "kept all rules" if not broken else "landed, with warnings"
    if result["blocked"]:
        verdict = "blocked: nothing of it landed"
    because = result.get("accepted_because")
    if because:
        verdict = f"let in by an operator although it was blocked: {because}"
    style = "broken" if _refused(result) else "warned" if broken else "kept"
    notes = "".join(f"<li>{escape(str(note))}</li>" for note in result.get("notes", ()))
    folded = (
        f"<details><summary>{len(kept)} rules were kept</summary><table><thead><tr>"
        "<th>rule</th><th>severity</th><th>expected</th><th>seen</th></tr></thead><tbody>"
        + "".join(_kept_row(entry) for entry in kept)
        + "</tbody></table></details>"
    )
    return (
        f"<h2>{escape(str(result['table']))} from {escape(str(result['source']))}, "
        f'as a whole: <span class="{style}">{escape(verdict)}</span></h2>'
        f"<p>{result['rows']:,} rows, against the same weekdays before. "
        f"Checked as of {escape(str(result['checked_at']))}.</p>"
        + "".join(_told(entry) for entry in broken)
        + (f"<ul>{notes}</ul>" if notes else "")
        + (folded if kept else "")
    )


def _told(entry: Mapping[str, Any]) -> str:
    days = [day for day in entry["days"] if day["day"] is not None]
    shown = sorted(days, key=lambda day: day["kept"])[:SHOWN_DAYS]
    rows = "".join(
        f"<tr><td>{escape(day['day'])}</td>"
        f'<td class="number {"kept" if day["kept"] else "broken"}">{escape(day["seen"])}</td>'
        f'<td class="number">{escape(day["usual"])}</td>'
        f'<td class="number">{escape(day["expected"])}</td></tr>'
        for day in sorted(shown, key=lambda day: str(day["day"]))
    )
    more = f"<p>and {len(days) - len(shown)} more days</p>" if len(days) > len(shown) else ""
    table = (
        '<table><thead><tr><th>day (UTC)</th><th class="number">seen</th>'
        '<th class="number">usual</th><th class="number">expected</th></tr></thead>'
        f"<tbody>{rows}</tbody></table>{more}"
    )
    word = "blocks" if entry["severity"] == "block" else "warns"
    return (
        f'<section class="told {escape(entry["severity"])}"><p><b>{word}:</b> '
        f"{escape(str(entry['rule']))}. Expected {escape(str(entry['expected']))}, "
        f"seen {escape(str(entry['seen']))}.</p>{table if days else ''}</section>"
    )


def _kept_row(entry: Mapping[str, Any]) -> str:
    cells = (entry["rule"], entry["severity"], entry["expected"], entry["seen"])
    return "<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in cells) + "</tr>"


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
    warned = entry["severity"] == "warn"
    kept = "kept" if entry["success"] else "warned" if warned else "broken"
    rule = escape(str(entry["rule"])) + (" (warning: rows pass)" if warned else "")
    examples = " ".join(f"<code>{escape(str(value))}</code>" for value in entry["examples"])
    return (
        f'<tr><td>{rule}</td><td class="number">{entry["rows"]:,}</td>'
        f'<td class="number {kept}">{entry["broken"]:,}</td><td>{examples}</td></tr>'
    )
