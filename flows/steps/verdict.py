"""The figures of a training that people are shown, taken from metrics.json of its bundle."""

from typing import Any


def headline(metrics: dict[str, Any]) -> dict[str, Any]:
    """Return the few figures of a release that lists show, of what it serves."""
    primary = metrics["tables"][metrics["primary_table"]]
    served = metrics["serves"].partition(":")[2]
    names = ("ndcg@10", "recall@10", "hit_rate@10", "coverage@10")
    found = {name: primary["models"][served][name] for name in names}
    lift = primary["intervals"]["popularity"][served]
    return {"serves": metrics["serves"], **found, "vs_popularity": lift}


def leaderboard(metrics: dict[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return table -> model -> NDCG@10, Recall@10 and relative lift over popularity, best first.

    `bounds` are the 95 % interval of NDCG@10 and `vs_popularity_bounds` that of the lift; None
    where there is none: the gate looks at another length than 10, or popularity is 0.
    """
    bounded = metrics["k"] == 10
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for name, table in metrics["tables"].items():
        means = table["models"]
        floor = means["popularity"]["ndcg@10"]
        ordered = sorted(means.items(), key=lambda pair: -pair[1]["ndcg@10"])
        found[name] = {
            model: {
                "ndcg@10": values["ndcg@10"],
                "recall@10": values["recall@10"],
                "vs_popularity": values["ndcg@10"] / floor - 1 if floor > 0 else None,
                "bounds": table["mean_bounds"].get(model) if bounded else None,
                "vs_popularity_bounds": _lift_bounds(table, model) if bounded else None,
            }
            for model, values in ordered
        }
    return found


def _lift_bounds(table: dict[str, Any], model: str) -> list[float] | None:
    lift = table["intervals"].get("popularity", {}).get(model)
    if lift is None or lift["reference"] <= 0:
        return None
    return [lift["lower"] / lift["reference"], lift["upper"] / lift["reference"]]


def segments(metrics: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what is served in each segment of the primary table, new shoppers and new items too:
    shoppers, NDCG@k and that of popularity (None where nobody is in it).
    """
    served, name = metrics["serves"].partition(":")[2], f"ndcg@{metrics['k']}"
    return [
        {
            "segment": label,
            "shoppers": body["shoppers"],
            "served": body["models"][served].get(name),
            "popularity": body["models"]["popularity"].get(name),
        }
        for label, body in metrics["tables"][metrics["primary_table"]]["segments"].items()
    ]


def broke(rule: dict[str, Any]) -> bool:
    """Say whether a rule of the gate decided against a release."""
    return bool(rule["required"] and not rule["passed"])


def rule_line(rule: dict[str, Any]) -> str:
    """Return a rule of the gate as a line: what it says, whether it holds, its numbers."""
    word = "holds" if rule["passed"] else "BROKEN" if rule["required"] else "broken (not required)"
    figures = ", ".join(f"{name} {_short(value)}" for name, value in rule["detail"].items())
    return f"{rule['name']}: {word} ({figures})"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
