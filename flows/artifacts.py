"""What a run leaves in the Prefect UI: markdown pages and links, for people."""

from typing import Any

from prefect.artifacts import create_markdown_artifact


def ingested(outcome: dict[str, Any]) -> None:
    """Leave the summary of an ingest.

    The sum that must hold, and what was refused by which rule.
    """
    rules = "\n".join(
        f"| {rule} | {count:,} |"
        for rule, count in sorted(outcome["rules"].items(), key=lambda pair: -pair[1])
    )
    create_markdown_artifact(
        f"# {outcome['rows_in']:,} rows in\n\n"
        f"= {outcome['accepted']:,} accepted + {outcome['quarantined']:,} quarantined "
        f"+ {outcome['duplicates']:,} exact duplicates, from {outcome['files']} files\n\n"
        f"| rule that was broken | rows |\n| --- | ---: |\n{rules}\n\n"
        f"Page: {outcome.get('page', '-')}\n",
        key="validation-summary",
        description="What came in, and what the gate refused",
    )


def trained(outcome: dict[str, Any]) -> None:
    """Leave the leaderboard and the verdict of a training."""
    tables = outcome["leaderboard"]
    head = " | ".join(f"{name.replace('_', ' ')} | vs popularity" for name in tables)
    lines = []
    for model in next(iter(tables.values())):
        cells = []
        for figures in tables.values():
            lift = figures[model]["vs_popularity"]
            cells += [
                f"{figures[model]['ndcg@10']:.4f}",
                "-" if lift is None else f"{lift:+.1%}",
            ]
        lines.append(f"| {model} | {' | '.join(cells)} |")
    rules = "\n".join(f"- {reason}" for reason in outcome["rules"])
    create_markdown_artifact(
        f"# Release {outcome['version']}: {'passed' if outcome['passed'] else 'REFUSED'}\n\n"
        f"Serves **{outcome['serves']}**. NDCG@10 on later time, full ranking:\n\n"
        f"| model | {head} |\n| --- |{' ---: | ---: |' * len(tables)}\n"
        + "\n".join(lines)
        + f"\n\n## Gate\n\n{rules}\n\nReport: {outcome['report']}\n",
        key="leaderboard",
        description="Every model on later time, and what the gate said",
    )


def watched(outcome: dict[str, Any]) -> None:
    """Leave the table of drift and the decision."""
    create_markdown_artifact(
        f"{outcome['markdown']}\n\n**{'Retrain' if outcome['retrain'] else 'No retraining'}**: "
        f"{'; '.join(outcome['reasons'])}\n\nReport: {outcome['report']}\n",
        key="drift",
        description="What moved since the champion was trained",
    )


def moved(outcome: dict[str, Any]) -> None:
    """Leave who moved the champion, from where to where, and why."""
    create_markdown_artifact(
        f"# Champion: release {outcome['version']}\n\nBefore: {outcome['previous']}. "
        f"By {outcome['who']}: {outcome['why']}. Served by {outcome['workers']} workers.\n",
        key="champion",
        description="Who moved the champion, and why",
    )
