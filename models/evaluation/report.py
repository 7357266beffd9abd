"""The report of a training run: JSON for programs, one self-contained page for people."""

from collections.abc import Mapping
from dataclasses import asdict
from html import escape
from typing import Any, Final

from models.evaluation.compare import CUTOFFS, TableResult
from models.ranking.config import RecipeConfig
from models.ranking.first_stage import POPULARITY

_TITLES: Final = {"repeats_allowed": "Repeats allowed", "new_items_only": "New items only"}
_METRICS: Final = ("ndcg", "recall", "mrr", "map", "hit_rate", "coverage")


def table_json(result: TableResult, parts: tuple[str, ...], config: RecipeConfig) -> dict[str, Any]:
    """Return one table: means, segments, candidate recall, intervals against popularity and the
    best part.
    """
    body: dict[str, Any] = {
        "queries": result.n_queries,
        "shoppers": result.n_shoppers,
        "candidate_recall": result.candidate_recall,
        "models": result.means,
        "segments": result.segments,
        "best_part": None,
        "intervals": {},
    }
    if result.n_queries == 0:
        return body
    best = result.best_of(parts)
    body["best_part"] = best
    body["intervals"] = {
        reference: {
            model: asdict(interval)
            for model, interval in result.intervals(
                reference, samples=config.bootstrap_samples, seed=config.seed
            ).items()
        }
        for reference in dict.fromkeys((POPULARITY, best))
    }
    return body


def report_page(metrics: Mapping[str, Any]) -> str:
    """Render metrics.json as one HTML page; nothing is fetched from anywhere.

    Reads the keys that `models.recipe` writes: serves, k, primary_table, verdict, tables,
    validation, importance, windows, retrievers.
    """
    verdict = metrics["verdict"]
    word = "PASSED" if verdict["passed"] else "REFUSED"
    sections = [
        f"<h1>Training report</h1><p class='verdict {word.lower()}'>Gate: {word}. "
        f"Would serve <b>{escape(str(metrics['serves']))}</b>.</p>",
        _windows(metrics["windows"]),
        _rules(verdict["rules"]),
    ]
    names = [metrics["primary_table"]]
    names += [name for name in metrics["tables"] if name not in names]
    sections += [_table(name, metrics["tables"][name], int(metrics["k"])) for name in names]
    sections += [
        _pairs("Validation shoppers: NDCG, what the choice was made on", metrics["validation"]),
        _pairs("Share of the trees' gain, top 20", dict(list(metrics["importance"].items())[:20])),
        _retrievers(metrics["retrievers"]),
    ]
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><title>Training report</title>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<style>{_STYLE}</style></head><body>{''.join(sections)}</body></html>\n"
    )


def _windows(windows: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><th>{escape(name.replace('_', ' '))}</th><td>{escape(str(value))}</td></tr>"
        for name, value in windows.items()
    )
    return f"<h2>Data</h2><table>{rows}</table>"


def _rules(rules: list[dict[str, Any]]) -> str:
    rows = "".join(
        f"<tr class='{'good' if rule['passed'] else 'bad'}'><td>{escape(rule['name'])}</td>"
        f"<td>{'yes' if rule['passed'] else 'NO'}</td>"
        f"<td>{'yes' if rule['required'] else 'no'}</td>"
        f"<td>{_details(rule['detail'])}</td></tr>"
        for rule in rules
    )
    head = "<tr><th>Rule</th><th>Holds</th><th>Required</th><th>Numbers</th></tr>"
    return f"<h2>Gate</h2><table>{head}{rows}</table>"


def _details(detail: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{escape(str(key).replace('_', ' '))} {escape(_number(value))}"
        for key, value in detail.items()
    )


def _table(name: str, body: Mapping[str, Any], k: int) -> str:
    title = f"<h2>{escape(_TITLES.get(name, name))}</h2>"
    if not body["queries"]:
        return f"{title}<p>No test query has a target here.</p>"
    models = body["models"]
    order = sorted(models, key=lambda model: -models[model][f"ndcg@{k}"])
    said = (
        f"<p>{body['queries']:,} queries of {body['shoppers']:,} shoppers, full ranking over the "
        f"catalogue. {body['candidate_recall']:.1%} of the targets stand among the candidates. "
        f"Best part: {escape(str(body['best_part']))}.</p>"
    )
    bars = _bars({model: models[model][f"ndcg@{k}"] for model in order}, f"NDCG@{k}")
    parts = [title, said, bars, _means(models, order), _intervals(body["intervals"], order)]
    for label, segment in body["segments"].items():
        if segment["queries"]:
            text = f"{label}: {segment['queries']:,} queries of {segment['shoppers']:,}"
            parts.append(f"<h3>{escape(text)}</h3>{_means(segment['models'], order)}")
    return "".join(parts)


def _means(models: Mapping[str, Mapping[str, float]], order: list[str]) -> str:
    names = [
        f"{metric}@{at}"
        for metric in _METRICS
        for at in CUTOFFS
        if f"{metric}@{at}" in models[order[0]]
    ]
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    rows = "".join(
        f"<tr><th>{escape(model)}</th>"
        + "".join(f"<td>{models[model][name]:.4f}</td>" for name in names)
        + "</tr>"
        for model in order
    )
    return f"<div class='wide'><table><tr><th>model</th>{head}</tr>{rows}</table></div>"


def _intervals(intervals: Mapping[str, Mapping[str, Mapping[str, float]]], order: list[str]) -> str:
    head = "".join(f"<th>against {escape(reference)}</th>" for reference in intervals)
    rows = "".join(
        f"<tr><th>{escape(model)}</th>"
        + "".join(
            f"<td>{by[model]['difference']:+.4f} ({by[model]['lower']:+.4f} to "
            f"{by[model]['upper']:+.4f})</td>"
            for by in intervals.values()
        )
        + "</tr>"
        for model in order
    )
    return (
        "<h3>Differences, paired bootstrap over shoppers, 95 %</h3>"
        f"<table><tr><th>model</th>{head}</tr>{rows}</table>"
    )


def _bars(values: Mapping[str, float], label: str) -> str:
    longest = max(values.values(), default=0.0) or 1.0
    rows = "".join(
        f"<text x='150' y='{at * 24 + 16}' text-anchor='end'>{escape(name)}</text>"
        f"<rect x='158' y='{at * 24 + 4}' width='{max(380 * value / longest, 1):.1f}' height='16'/>"
        f"<text x='{164 + 380 * value / longest:.1f}' y='{at * 24 + 16}'>{value:.4f}</text>"
        for at, (name, value) in enumerate(values.items())
    )
    height = 24 * len(values) + 4
    return (
        f"<svg role='img' aria-label='{escape(label)}' viewBox='0 0 620 {height}' width='620' "
        f"height='{height}'>{rows}</svg>"
    )


def _pairs(title: str, values: Mapping[str, float]) -> str:
    if not values:
        return ""
    ordered = dict(sorted(values.items(), key=lambda pair: -pair[1]))
    return f"<h2>{escape(title)}</h2>{_bars(ordered, title)}"


def _retrievers(retrievers: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{seconds:.1f} s</td></tr>"
        for name, seconds in retrievers["seconds"].items()
    )
    failed = "".join(
        f"<tr class='bad'><td>{escape(name)}</td><td>left out: {escape(reason)}</td></tr>"
        for name, reason in retrievers["failures"].items()
    )
    return f"<h2>Retrievers</h2><table><tr><th>model</th><th>fit</th></tr>{rows}{failed}</table>"


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    return str(value)


_STYLE: Final = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;"
    "color:#1b1f24;background:#fff}table{border-collapse:collapse;margin:.5rem 0}"
    "th,td{padding:.2rem .6rem;text-align:left;border-bottom:1px solid #d9dde2;white-space:nowrap}"
    ".wide{overflow-x:auto}td{font-variant-numeric:tabular-nums;white-space:normal}"
    ".verdict{padding:.6rem 1rem;border-radius:.4rem}.passed{background:#dff3e4}"
    ".refused{background:#fbe0dd}tr.bad td{background:#fbe0dd}svg{max-width:100%;height:auto}"
    "svg rect{fill:#3b6fb6}svg text{font-size:12px;fill:#1b1f24}"
)
