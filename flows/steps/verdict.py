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
    """Return table -> model -> NDCG@10, Recall@10 and relative lift over popularity, best first."""
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
            }
            for model, values in ordered
        }
    return found


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
