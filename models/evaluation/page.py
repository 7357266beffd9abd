"""The report as one self-contained page for people."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final

from models.evaluation.champion import CHAMPION
from models.evaluation.charts import Bar, bars, differences, heat_table, spread
from models.evaluation.page_tables import (
    RANKING,
    metric_table,
    segment_table,
    served_of,
    table_section,
    title_of,
)


def report_page(metrics: Mapping[str, Any]) -> str:
    """Render metrics.json as one HTML page; nothing is fetched from anywhere.

    Reads what `EvaluationReport.to_json` and `models.bundle` write. `fusions` (ablation, failures)
    and `overlap_at_10` are shown where they are present.
    """
    names = [metrics["primary_table"]]
    names += [name for name in metrics["tables"] if name not in names]
    sections = [
        _headline(metrics),
        _rules(metrics["verdict"]["rules"]),
        *(table_section(name, metrics) for name in names),
        _champion(metrics),
        _fusions(metrics),
        _pairs("Share of the trees' gain, top 20", metrics["importance"], most=20),
        _costs(metrics),
        _data(metrics),
    ]
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><title>Training report</title>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<style>{_STYLE}</style></head><body>{''.join(sections)}</body></html>\n"
    )


def _headline(metrics: Mapping[str, Any]) -> str:
    verdict = metrics["verdict"]
    word = "PASSED" if verdict["passed"] else "REFUSED"
    table = metrics["tables"][metrics["primary_table"]]
    served, k = served_of(metrics), int(metrics["k"])
    cards = [
        (f"NDCG@{k}", f"{table['models'][served][f'ndcg@{k}']:.4f}", _span(table, served)),
        *(
            (f"over {reference}", _lift(by[served]), _lift_span(by[served]))
            for reference, by in table["intervals"].items()
            if reference != served
        ),
        (
            "of the targets are candidates",
            f"{table['candidate_recall']:.1%}",
            f"{table['shoppers']:,} shoppers, {table['queries']:,} queries",
        ),
    ]
    broken = [rule["name"] for rule in verdict["rules"] if rule["required"] and not rule["passed"]]
    why = f" Broken: {escape('; '.join(broken))}." if broken else ""
    shown = "".join(
        f"<div class='card'><b>{escape(value)}</b><span>{escape(name)}</span>"
        f"<small>{escape(small)}</small></div>"
        for name, value, small in cards
    )
    return (
        f"<h1>Training report</h1><p class='verdict {word.lower()}'>Gate: {word}. "
        f"Would serve <b>{escape(str(metrics['serves']))}</b>.{why}</p>"
        f"<p>Judged on the table <b>{escape(title_of(metrics['primary_table']).lower())}</b>, on "
        "later time, ranked over the full catalogue. Intervals are 95 %, from a paired bootstrap "
        f"over shoppers.</p><div class='cards'>{shown}</div>"
    )


def _span(table: Mapping[str, Any], system: str) -> str:
    lower, upper = table["mean_bounds"][system]
    return f"{lower:.4f} to {upper:.4f}"


def _lift(interval: Mapping[str, float]) -> str:
    base = interval["reference"]
    return f"{interval['difference'] / base:+.1%}" if base else f"{interval['difference']:+.4f}"


def _lift_span(interval: Mapping[str, float]) -> str:
    base = interval["reference"]
    if not base:
        return f"{interval['lower']:+.4f} to {interval['upper']:+.4f}"
    return f"{interval['lower'] / base:+.1%} to {interval['upper'] / base:+.1%}"


def _rules(rules: Sequence[Mapping[str, Any]]) -> str:
    rows = "".join(
        f"<tr class='{_rule_class(rule)}'><td>{_rule_word(rule)}</td><th>{escape(rule['name'])}"
        f"</th><td class='detail'>{_details(rule['detail'])}</td></tr>"
        for rule in rules
    )
    head = "<tr><th></th><th>rule</th><th>numbers</th></tr>"
    return f"<h2>Gate</h2><div class='wide'><table>{head}{rows}</table></div>"


def _rule_class(rule: Mapping[str, Any]) -> str:
    return "good" if rule["passed"] else "bad" if rule["required"] else "odd"


def _rule_word(rule: Mapping[str, Any]) -> str:
    if rule["passed"]:
        return "holds"
    return "BROKEN" if rule["required"] else "broken, not required"


def _details(detail: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{escape(str(key).replace('_', ' '))}&nbsp;<b>{escape(_number(value))}</b>"
        for key, value in detail.items()
    )


def _champion(metrics: Mapping[str, Any]) -> str:
    champion = metrics["champion"]
    if champion is None:
        return "<h2>Champion</h2><p>There is none: this is a first release.</p>"
    if champion["how"] == "identical":
        said = "Its recipe is this one, and too few shoppers came after its data to compare."
        return f"<h2>Champion</h2><p>{said}</p>"
    if champion["how"] == "impossible":
        return f"<h2>Champion</h2><p>It was not compared: {escape(champion['failure'])}</p>"
    how = {
        "direct": "On the queries after its own data end.",
        "refitted": "Its recipe was refitted on this run's data, and asked all test queries.",
    }[champion["how"]]
    k = int(metrics["k"])
    interval = champion["interval"]
    lift = f"{_lift(interval)} ({_lift_span(interval)})"
    parts = [f"<h2>Champion</h2><p>{how} NDCG@{k} against it: <b>{lift}</b>.</p>"]
    for name, body in champion["tables"].items():
        if body["queries"]:
            parts.append(
                f"<h3>{escape(title_of(name))}: {body['shoppers']:,} shoppers</h3>"
                + metric_table(body["models"], champion["systems"], RANKING, "challenger")
                + segment_table(body["segments"], champion["systems"], k, "challenger", CHAMPION)
            )
    return "".join(parts)


def _fusions(metrics: Mapping[str, Any]) -> str:
    found = metrics.get("fusions") or {}
    parts = [
        _pairs("Validation shoppers: NDCG, what the choice was made on", metrics["validation"])
    ]
    failures = found.get("failures") or {}
    parts += [
        f"<p class='note'>{escape(name)} is left out: {escape(reason)}</p>"
        for name, reason in failures.items()
    ]
    if ablation := found.get("ablation"):
        parts.append(_ablation(ablation))
    return "".join(parts)


def _ablation(ablation: Sequence[Mapping[str, Any]]) -> str:
    ordered = sorted(ablation, key=lambda each: each["difference"]["difference"])
    values = [
        Bar(
            f"{each['family']} ({each['features']})",
            each["difference"]["difference"],
            each["difference"]["lower"],
            each["difference"]["upper"],
        )
        for each in ordered
    ]
    chart = differences(values, "NDCG without the family less with it", lambda n: f"{n:+.4f}")
    return (
        "<h2>Features, left out family by family</h2><p>NDCG of the trees on the validation "
        "shoppers without the family, less with all. Left of the line: the family is needed.</p>"
        f"{chart}"
    )


def _pairs(title: str, values: Mapping[str, float], most: int | None = None) -> str:
    if not values:
        return ""
    ordered = sorted(values.items(), key=lambda pair: -pair[1])[:most]
    shown = [Bar(name, value) for name, value in ordered]
    return f"<h2>{escape(title)}</h2>{bars(shown, title, lambda value: f'{value:.4f}')}"


def _costs(metrics: Mapping[str, Any]) -> str:
    costs, failures = metrics["costs"], metrics["retrievers"]["failures"]
    columns = ("fit_seconds", "bytes", "ms_per_request")
    rows = [[cost[name] for name in columns] for cost in costs.values()]
    shades = [spread(column, higher_is_better=False) for column in zip(*rows, strict=True)]
    table = heat_table(
        list(costs),
        ["fit, seconds", "on disk, bytes", "one request, ms"],
        [
            [
                "–" if cost["fit_seconds"] is None else f"{cost['fit_seconds']:.2f}",
                "–" if cost["bytes"] is None else f"{cost['bytes']:,}",
                "–" if cost["ms_per_request"] is None else f"{cost['ms_per_request']:.1f}",
            ]
            for cost in costs.values()
        ],
        [list(row) for row in zip(*shades, strict=True)],
        served_of(metrics),
    )
    out = "".join(
        f"<p class='bad'>{escape(name)} is left out: {escape(reason)}</p>"
        for name, reason in failures.items()
    )
    note = (
        "A request is one query answered alone, from history to list; a fusion asks every part, "
        "and its bytes are its own."
    )
    return f"<h2>Cost</h2>{table}{out}<p class='note'>{note}</p>"


def _data(metrics: Mapping[str, Any]) -> str:
    facts = dict(metrics["windows"])
    if "overlap_at_10" in metrics:
        facts["overlap@10 of the release with what was judged"] = metrics["overlap_at_10"]
    rows = "".join(
        f"<tr><th>{escape(name.replace('_', ' '))}</th><td>{escape(_number(value))}</td></tr>"
        for name, value in facts.items()
    )
    return f"<h2>Data</h2><table>{rows}</table>"


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


_STYLE: Final = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:90rem;padding:0 1.2rem;"
    "color:#1b1f24;background:#fff}h1{margin-bottom:.4rem}h2{margin:2.4rem 0 .4rem;"
    "border-top:1px solid #d9dde2;padding-top:1.2rem}h3{margin:1.4rem 0 .3rem}"
    "table{border-collapse:collapse;margin:.5rem 0}th,td{padding:.25rem .6rem;text-align:left;"
    "border-bottom:1px solid #e4e7eb;white-space:nowrap;font-weight:400}tr:first-child th{"
    "color:#57606a;vertical-align:bottom;white-space:normal}.n{font-variant-numeric:tabular-nums;text-align:right}"
    ".wide{overflow-x:auto}.wide table{font-size:.8rem}.wide th,.wide td{padding:.22rem .32rem}"
    ".detail{white-space:normal;color:#57606a}.detail b{color:#1b1f24;"
    "font-weight:500}.verdict{padding:.6rem 1rem;border-radius:.4rem;font-size:1.1rem}"
    ".passed{background:#dff3e4}.refused{background:#fbe0dd}tr.bad td,tr.bad th,p.bad{"
    "background:#fbe0dd}tr.odd td,tr.odd th{background:#fdf3d8}tr.served th,tr.served td{"
    "font-weight:600}.note,small{color:#57606a;font-size:.85rem}.cards{display:flex;"
    "flex-wrap:wrap;gap:.8rem}.card{border:1px solid #d9dde2;border-radius:.4rem;"
    "padding:.6rem 1rem;min-width:10rem}.card b{display:block;font-size:1.5rem;font-weight:600}"
    ".card span,.card small{display:block}.plots{display:flex;flex-wrap:wrap;gap:1rem 2rem}"
    "figure{margin:.5rem 0}figcaption{font-weight:600}svg{max-width:100%;height:auto}"
    "svg rect,svg circle{fill:#8fb1dc}svg .served rect,svg .served circle{fill:#1f5fae}"
    "svg .floor rect,svg .floor circle{fill:#b8bec6}svg text{font-size:12px;fill:#1b1f24}"
    "svg .served text{font-weight:600}svg text.value{font-size:11px;fill:#57606a;font-weight:400}"
    ".whisker{stroke:#1b1f24;stroke-width:1.2;fill:none}.zero{stroke:#8b949e;stroke-width:1}"
)
