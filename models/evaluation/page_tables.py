"""A table of results as HTML: plots, figures and segments of every system."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final

from models.evaluation.charts import Bar, bars, differences, heat_table, spread
from models.evaluation.tables import CUTOFFS
from models.ranking.first_stage import POPULARITY

_TITLES: Final = {"repeats_allowed": "Repeats allowed", "new_items_only": "New items only"}
RANKING: Final = ("ndcg", "recall", "map", "mrr", "hit_rate", "precision", "f1")
_LISTS: Final = {
    "coverage": "share of the catalogue shown to anybody",
    "novelty": "mean self-information of what is shown, bits",
    "diversity": "share of category levels on which two items of a list differ",
    "popularity": "mean number of past events of what is shown",
    "gini": "0 places fall evenly on the catalogue, 1 all on one item",
    "calibration": "KL divergence of a list's categories from the history's, lower is closer",
}
_GOOD: Final = {"coverage": True, "diversity": True, "gini": False, "calibration": False}
"""Whether more is better, of the figures where that can be said; the others are not shaded."""
_SHADED_LIFT: Final = 1.0
"""A gain of this share over popularity has the full shade."""


def served_of(metrics: Mapping[str, Any]) -> str:
    """Return the system that would be served."""
    return str(metrics["serves"]).partition(":")[2]


def title_of(name: str) -> str:
    """Return what people call a table."""
    return _TITLES.get(name, name)


def table_section(name: str, metrics: Mapping[str, Any]) -> str:
    """Return one table of results: what was asked, plots, all figures, all segments."""
    body, k, served = metrics["tables"][name], int(metrics["k"]), served_of(metrics)
    title = f"<h2>{escape(title_of(name))}</h2>"
    if not body["queries"]:
        return f"{title}<p>No test query has a target here.</p>"
    order = _ordered(body["models"], k)
    said = (
        f"<p>{body['queries']:,} queries of {body['shoppers']:,} shoppers. "
        f"{body['candidate_recall']:.1%} of the targets stand among the fusions' candidates. "
        f"Best part: {escape(str(body['best_part']))}.</p>"
    )
    bounds = body["mean_bounds"]
    values = [
        Bar(
            system,
            body["models"][system][f"ndcg@{k}"],
            bounds[system][0],
            bounds[system][1],
            _mark(system, served),
        )
        for system in order
    ]
    plots = [_figure(f"NDCG@{k}", bars(values, f"NDCG@{k}", lambda value: f"{value:.4f}"))]
    plots += [
        _figure(f"Difference to {reference}", _differences(by, order, served, reference))
        for reference, by in body["intervals"].items()
    ]
    return (
        f"{title}{said}<div class='plots'>{''.join(plots)}</div>"
        f"<h3>Ranking</h3>{metric_table(body['models'], order, RANKING, served)}"
        f"<h3>What the lists are like</h3>{_lists(body['models'], order, k, served)}"
        f"<h3>By segment</h3>{segment_table(body['segments'], order, k, served)}"
    )


def _ordered(models: Mapping[str, Mapping[str, float]], k: int) -> list[str]:
    return sorted(models, key=lambda system: -models[system][f"ndcg@{k}"])


def _mark(system: str, served: str) -> str:
    return "served" if system == served else "floor" if system == POPULARITY else ""


def _figure(title: str, svg: str) -> str:
    return f"<figure><figcaption>{escape(title)}</figcaption>{svg}</figure>"


def _differences(
    by: Mapping[str, Mapping[str, float]], order: Sequence[str], served: str, reference: str
) -> str:
    values = [
        Bar(
            system,
            by[system]["difference"],
            by[system]["lower"],
            by[system]["upper"],
            _mark(system, served),
        )
        for system in order
        if system != reference
    ]
    return differences(values, f"NDCG less that of {reference}", lambda value: f"{value:+.4f}")


def metric_table(
    models: Mapping[str, Mapping[str, float]],
    order: Sequence[str],
    metrics: Sequence[str],
    served: str,
) -> str:
    """Return the means by system, each column shaded from its lowest to its highest value."""
    names = [f"{metric}@{at}" for metric in metrics for at in CUTOFFS]
    columns = [spread([models[system][name] for system in order]) for name in names]
    return heat_table(
        order,
        [escape(name.replace("_", " ")).replace("@", "<br>@") for name in names],
        [[f"{models[system][name]:.4f}" for name in names] for system in order],
        [list(row) for row in zip(*columns, strict=True)],
        served,
    )


def _lists(
    models: Mapping[str, Mapping[str, float]], order: Sequence[str], k: int, served: str
) -> str:
    names = [name for name in _LISTS if f"{name}@{k}" in models[order[0]]]
    columns = [
        spread(
            [models[system][f"{name}@{k}"] if name in _GOOD else None for system in order],
            higher_is_better=_GOOD.get(name, True),
        )
        for name in names
    ]
    table = heat_table(
        order,
        [f"{escape(name)}@{k}" for name in names],
        [[_short(models[system][f"{name}@{k}"]) for name in names] for system in order],
        [list(row) for row in zip(*columns, strict=True)],
        served,
    )
    said = "; ".join(f"<b>{name}</b>: {_LISTS[name]}" for name in names)
    return f"{table}<p class='note'>{said}.</p>"


def segment_table(
    segments: Mapping[str, Mapping[str, Any]],
    order: Sequence[str],
    k: int,
    served: str,
    reference: str = POPULARITY,
) -> str:
    """Return NDCG@k by system and segment, shaded by the gain over `reference` in that segment."""
    heads = [
        f"{escape(name)}<br><small>{segment['shoppers']:,} shoppers</small>"
        for name, segment in segments.items()
    ]
    cells = [
        [_segment_cell(segment, system, k) for segment in segments.values()] for system in order
    ]
    shades = [
        [_segment_shade(segment, system, reference, k) for segment in segments.values()]
        for system in order
    ]
    note = (
        f"Green is above {escape(reference)} in the same segment, red below; full shade is twice "
        "as good. A dash: nobody is in it. ± is half of the 95 % interval of the mean."
    )
    return f"{heat_table(order, heads, cells, shades, served)}<p class='note'>{note}</p>"


def _segment_cell(segment: Mapping[str, Any], system: str, k: int) -> str:
    if not segment["queries"]:
        return "–"
    lower, upper = segment["mean_bounds"][system]
    return f"{segment['models'][system][f'ndcg@{k}']:.4f} ±{(upper - lower) / 2:.3f}"


def _segment_shade(segment: Mapping[str, Any], system: str, reference: str, k: int) -> float | None:
    if not segment["queries"] or segment["models"][reference][f"ndcg@{k}"] <= 0:
        return None
    means = segment["models"]
    lift = float(means[system][f"ndcg@{k}"] / means[reference][f"ndcg@{k}"] - 1.0)
    return max(-1.0, min(1.0, lift / _SHADED_LIFT))


def _short(value: float) -> str:
    return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.3f}"
