"""`amalgam status`: what stands where, at a glance."""

import json
import sys
from typing import Annotated, Any

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel="Serve and look")(status)


def status(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    demo: Annotated[bool, typer.Option("--demo", help="A public key for pseudonyms.")] = False,
) -> None:
    """Show what is served, what waits, what ran, what drifted, what is held, and the disk."""
    import os

    from contracts.settings import load_settings
    from flows.environment import environment, server_is_up
    from flows.steps.outcome import moment
    from flows.steps.status import status as found_now

    settings = load_settings(demo=demo or None)
    found = found_now(settings, moment(settings, None))
    found["prefect"] = server_is_up(settings)
    if found["prefect"]:
        os.environ.update(environment(settings, server=True))
        from flows.runs import last_runs

        found["runs"] = last_runs()
    if as_json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
    else:
        show_status(found)


def show_status(found: dict[str, Any]) -> None:
    """Print the state as two tables."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    table = Table(title=found["home"], show_header=False)
    table.add_column(style="bold")
    table.add_column()
    for name, text in _rows(found):
        table.add_row(name, escape(text))
    console.print(table)
    if found["figures"]:
        console.print(_figures(found["figures"]))
    if not found["runs"]:
        return
    source = "" if found["prefect"] else " (Prefect is not up: whole runs only)"
    runs = Table("flow", "last", "state", "next", title=f"Runs{source}")
    for run in found["runs"]:
        runs.add_row(run["flow"], _minute(run["at"]), run["state"] or "-", _minute(run["next"]))
    console.print(runs)


def _rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    drift, disk = found["drift"], dict(found["disk"])
    free = disk.pop("free")
    return [
        ("champion", _champion(found["champion"])),
        ("hold", found["hold"] or "none: drift may start a training"),
        ("experiment", _experiment(found["experiment"])),
        ("releases", f"{found['releases']}, pinned: {', '.join(found['pinned']) or 'none'}"),
        ("snapshot", _snapshot(found["snapshot"])),
        ("workers", "\n".join(map(_worker, found["workers"])) or "no service runs"),
        ("journal", _waiting(found["journal"])),
        ("landing", _waiting(found["landing"])),
        ("ingest", _ingest(found["ingest"])),
        ("training", _training(found["training"])),
        ("drift", _drift(drift)),
        (
            "disk",
            ", ".join(f"{name} {_bytes(size)}" for name, size in disk.items())
            + f"; {_bytes(free)} free",
        ),
    ]


def _champion(champion: dict[str, Any] | None) -> str:
    if champion is None:
        return "none yet: amalgam train"
    age = champion["data_age_days"]
    of = "" if age is None else f", data to {champion['data_end'][:10]} ({age:.1f} days ago)"
    was = "" if champion["previous"] is None else f" (was {champion['previous']})"
    return (
        f"release {champion['version']}{was}, serves {champion['serves'] or '-'}{of}\n"
        f"{champion['action']} {_minute(champion['since'])} by {champion['who']}: {champion['why']}"
    )


def _experiment(running: dict[str, Any] | None) -> str:
    if running is None:
        return "none runs"
    told = "; ".join(running["reasons"] or ["nobody looked yet: amalgam experiment judge"])
    return (
        f"{running['id']} ({running['kind']}): release {running['challenger']} beside "
        f"{running['control']} for {running['share']:.0%} since {_minute(running['started'])}: "
        f"{told}"
    )


def _snapshot(snapshot: dict[str, Any] | None) -> str:
    if snapshot is None:
        return "none yet: amalgam materialize"
    return f"{snapshot['id']}, {_span(snapshot['age_seconds'])} old"


def _worker(report: dict[str, Any]) -> str:
    told = f"{report['pid']} at {report['address']}: release {report['release'] or 'none'}"
    return told + (f", but: {report['error']}" if report["error"] else "")


def _waiting(waiting: dict[str, Any]) -> str:
    if not waiting["files"]:
        return "nothing waits for ingest"
    since = _span(waiting["oldest_seconds"])
    return f"{waiting['files']} files ({_bytes(waiting['bytes'])}) wait, the oldest for {since}"


def _ingest(ingest: dict[str, Any] | None) -> str:
    if ingest is None:
        return "nothing came in yet: amalgam ingest"
    page = f"\n{ingest['page']}" if ingest["page"] else ""
    return f"{_minute(ingest['ended'])}: {ingest['rows']}{page}"


def _training(training: dict[str, Any] | None) -> str:
    if training is None:
        return "none yet: amalgam train"
    verdict = "passed the gate" if training["passed"] else "REFUSED by the gate"
    why = "".join(f"\n{reason}" for reason in training["reasons"])
    held = f", but the champion is {training['held']}" if training["held"] else ""
    return (
        f"{_minute(training['ended'])}: release {training['version']} {verdict}{held}{why}\n"
        f"{training['report']}"
    )


def _figures(figures: list[dict[str, Any]]) -> Any:
    """Return the newest releases and what each was worth, newest first."""
    from rich.table import Table

    from flows.steps.figures import lift_text

    table = Table("release", "is", "learnt to", "serves", title="Metrics over releases")
    for name in ("NDCG@10", "popularity", "lift (95 %)"):
        table.add_column(name, justify="right")
    for found in reversed(figures):
        values = (found["ndcg@10"], found["popularity"])
        table.add_row(
            found["version"],
            found["status"],
            found["data_end"] or "-",
            found["serves"] or "-",
            *("-" if value is None else f"{value:.4f}" for value in values),
            lift_text(found["lift"], found["lift_bounds"]),
        )
    return table


def _drift(drift: dict[str, Any] | None) -> str:
    if drift is None:
        return "never looked at: amalgam monitor"
    reasons = "; ".join(drift["reasons"])
    return f"{drift['verdict']} at {_minute(drift['ended'])}: {reasons}\n{drift['report']}"


def _minute(moment: str | None) -> str:
    return "-" if moment is None else moment[:16].replace("T", " ")


def _span(seconds: float) -> str:
    for size, name in ((86_400, "days"), (3_600, "hours"), (60, "minutes")):
        if seconds >= size:
            return f"{seconds / size:.1f} {name}"
    return f"{seconds:.0f} seconds"


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
