"""What a run leaves in the Prefect UI: markdown pages, links and a picture, for people."""

from base64 import b64encode
from typing import Any

from prefect.artifacts import create_markdown_artifact

from flows.steps.figures import RELEASES, lift_text
from flows.steps.outcome import rows_sum


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
        f"{rows_sum(outcome)}, from {outcome['files']} files\n\n"
        f"| rule that was broken | rows |\n| --- | ---: |\n{rules}\n\n"
        f"{_batches(outcome)}"
        f"Page: {outcome.get('page', '-')}\n",
        key="validation-summary",
        description="What came in, and what the gate refused",
    )


def _batches(outcome: dict[str, Any]) -> str:
    """Return what rules over whole batches said: what was blocked, let in all the same, or odd."""
    lines = []
    for batch in outcome.get("blocked", ()):
        lines.append(f"## Blocked: {batch['table']} from {batch['source']}\n")
        lines.append(f"Nothing of {', '.join(f'`{name}`' for name in batch['files'])} landed.\n")
        lines += [f"- {reason}" for reason in batch["reasons"]]
        lines.append("")
    if outcome.get("accepted_because"):
        lines.append(f"Batches were let in whatever they are: {outcome['accepted_because']}\n")
    if outcome.get("warnings"):
        lines.append("## Warnings\n")
        lines += [f"- {warning}" for warning in outcome["warnings"]]
        lines.append("")
    return "\n".join(lines) + "\n" if lines else ""


def trained(outcome: dict[str, Any]) -> None:
    """Leave the verdict of a training, its leaderboards and the segments."""
    boards = "\n\n".join(
        f"## NDCG@10, {name.replace('_', ' ')}\n\n| model | NDCG@10 | vs popularity |\n"
        "| --- | ---: | ---: |\n"
        + "\n".join(f"| {model} | {_cells(figures)} |" for model, figures in models.items())
        for name, models in outcome["leaderboard"].items()
    )
    segments = "\n".join(
        f"| {row['segment']} | {row['shoppers']:,} | {_figure(row['served'])} | "
        f"{_figure(row['popularity'])} |"
        for row in outcome["segments"]
    )
    rules = "\n".join(f"- {reason}" for reason in outcome["rules"])
    create_markdown_artifact(
        f"# Release {outcome['version']}: {'passed' if outcome['passed'] else 'REFUSED'}\n\n"
        f"Serves **{outcome['serves']}**. Judged on later time, full ranking, with 95 % intervals "
        f"over shoppers.\n\n{boards}\n\n## Segments\n\n"
        f"| segment | shoppers | served | popularity |\n| --- | ---: | ---: | ---: |\n{segments}"
        f"\n\n## Gate\n\n{rules}\n\nReport: {outcome['report']}\n",
        key="leaderboard",
        description="Every model on later time, and what the gate said",
    )


def _cells(figures: dict[str, Any]) -> str:
    """Return a model's NDCG and its lift over popularity, each with its interval."""
    value = f"{figures['ndcg@10']:.4f}"
    if figures["bounds"]:
        value += " ({:.4f} to {:.4f})".format(*figures["bounds"])
    return f"{value} | {lift_text(figures['vs_popularity'], figures['vs_popularity_bounds'])}"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


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


def compared(found: dict[str, Any]) -> None:
    """Leave both arms of an experiment, the interval, and what is to be done."""
    running, decision = found["running"], found["decision"]
    lines = [
        f"# Experiment {running['id']}: {found['action']}\n",
        f"{running['kind']}: release {running['challenger']} beside {running['control']} for "
        f"{running['share']:.0%} of the shoppers, since {running['started'][:16]}; "
        f"{found['days']:.1f} days are judged.\n",
    ]
    if decision is not None:
        lines.append(
            f"| arm | release | shoppers | lists | {found['metric']} | a shopper |\n"
            "| --- | --- | ---: | ---: | ---: | ---: |"
        )
        lines += [
            f"| {arm} | {running[arm]} | {decision[arm]['shoppers']:,} | "
            f"{decision[arm]['lists']:,} | {decision[arm]['total']:,.0f} | "
            f"{decision[arm]['mean']:.4f} |"
            for arm in ("control", "challenger")
        ]
        cost = decision["harm_days"]
        lines.append(
            f"\nLost so far, by the estimate: {decision['harm']:,.0f}"
            + (f" ({cost:.2f} days of the shop)" if cost is not None else "")
            + f". Whom both answered counts in the first: {found['crossed']:,} shoppers; bots in "
            f"neither: {found['bots']:,}.\n"
        )
    lines += [f"- {reason}" for reason in found["reasons"]]
    create_markdown_artifact(
        "\n".join(lines) + "\n", key="experiment", description="The challenger beside the champion"
    )


def pictured(drawn: dict[str, Any]) -> None:
    """Leave the picture of metrics over releases, and its figures.

    The picture lies in its own address: nothing is fetched, and the artifact stays as it was.
    """
    picture = b64encode(drawn["svg"].encode()).decode()
    rows = "\n".join(
        f"| {found['version']}, {found['status']} | {found['serves'] or '-'} | "
        f"{found['data_end'] or '-'} | {_figure(found['ndcg@10'])} | "
        f"{lift_text(found['lift'], found['lift_bounds'])} |"
        for found in reversed(drawn["releases"])
    )
    create_markdown_artifact(
        f"![NDCG@10 and lift of each release](data:image/svg+xml;base64,{picture})\n\n"
        "| release | serves | learnt to | NDCG@10 | lift (95 %) |\n"
        f"| --- | --- | --- | ---: | ---: |\n{rows}\n\n"
        f"Picture: {drawn['picture']}\n",
        key=RELEASES,
        description="Metrics over releases",
    )


def exported(outcome: dict[str, Any]) -> None:
    """Leave what was exported, of which release, and how fast."""
    rate = f", {outcome['rate']:,.0f} shoppers a second" if outcome["rate"] else ""
    create_markdown_artifact(
        f"# {outcome['rows']:,} places for {outcome['shoppers']:,} shoppers\n\n"
        f"Release {outcome['release']}, snapshot {outcome['snapshot']}, k = {outcome['k']}, "
        f"{outcome['scenario']}, as of {outcome['now']}{rate}.\n\n`{outcome['folder']}`\n",
        key="export",
        description="Lists for every known shopper",
    )


def freed(outcome: dict[str, Any]) -> None:
    """Leave the tables of what upkeep put together and what it deleted."""
    kinds = "\n".join(
        f"| {kind} | {found['files']:,} | {found['bytes']:,} |"
        for kind, found in outcome["freed"].items()
    )
    tables = "\n".join(
        f"| {found['table']} | {found['files_before']:,} | {found['files_after']:,} |"
        for found in outcome["tables"]
    )
    would = "would be " if outcome["dry_run"] else ""
    create_markdown_artifact(
        f"# {outcome['bytes']:,} bytes in {outcome['files']:,} files {would}freed\n\n"
        f"| what | files | bytes |\n| --- | ---: | ---: |\n{kinds}\n\n"
        f"Rows of quarantine that expired: {outcome['rows_expired']:,}\n\n"
        f"Releases that went: {_names(outcome['releases']['deleted'])}\n\n"
        f"| release | kept because it is |\n| --- | --- |\n{_kept(outcome['releases']['kept'])}\n\n"
        f"| table | files before | after |\n| --- | ---: | ---: |\n{tables}\n",
        key="upkeep",
        description="What upkeep put together, and what it deleted",
    )


def _names(releases: list[dict[str, Any]]) -> str:
    return ", ".join(found["version"] for found in releases) or "none"


def _kept(releases: dict[str, list[str]]) -> str:
    return "\n".join(f"| {version} | {', '.join(why)} |" for version, why in releases.items())
