"""`amalgam release`: what a release is made of, how two differ, and which are kept for good."""

import json
import sys
from typing import Annotated, Any

import typer

Version = Annotated[str, typer.Argument(help="A version that `amalgam releases` lists.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Reason = Annotated[str, typer.Option(metavar="WHY", help="Why, for the audit log.")]

release = typer.Typer(help="Show a release, compare two, keep one for good.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(release, name="release", rich_help_panel="The life of a shop")


@release.command()
def show(version: Version, as_json: AsJson = False) -> None:
    """Show what a release was made of: data, code, settings, features, figures, verdict."""
    from contracts.settings import load_settings
    from flows.steps.releases import show_release

    found = show_release(load_settings(), version)
    if as_json:
        _json(found)
    else:
        _show(found)


@release.command()
def diff(version: Version, other: Version, as_json: AsJson = False) -> None:
    """Show what changed from one release to another."""
    from contracts.settings import load_settings
    from flows.steps.releases import compare_releases

    found = compare_releases(load_settings(), version, other)
    if as_json:
        _json(found)
    else:
        _show_changes(found)


@release.command()
def pin(version: Version, reason: Reason) -> None:
    """Keep a release whatever retention says; audited."""
    _note("pin", version, reason)
    sys.stdout.write(f"release {version} is kept until: amalgam release unpin {version}\n")


@release.command()
def unpin(version: Version, reason: Reason = "by hand") -> None:
    """Leave a release to retention again; audited."""
    _note("unpin", version, reason)
    sys.stdout.write(f"release {version} is left to retention ([upkeep] keep_releases)\n")


def _note(action: str, version: str, reason: str) -> None:
    from contracts.settings import load_settings
    from flows.commands.who import operator
    from flows.steps.outcome import moment
    from services import retention
    from services.registry import Releases

    settings = load_settings()
    act = retention.pin if action == "pin" else retention.unpin
    releases = Releases(settings.registry)
    act(releases, version, who=operator(), why=reason, now=moment(settings, None))


def _json(found: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(found, indent=2) + "\n")


def _show(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    data, verdict = found["data"], found["verdict"]
    table = Table(title=f"Release {found['version']}", show_header=False)
    table.add_column(style="bold")
    table.add_column()
    for name, value in (
        ("status", found["status"]),
        ("created", f"{found['created']}, because: {found['reason'] or '-'}"),
        ("moves", "\n".join(map(_move, found["moves"])) or "never the champion"),
        ("serves", found["serves"] or "-"),
        ("data", f"to {found['data_end'] or '-'}\n{_pairs(data['versions'], 'version ')}"),
        ("rows", _pairs(data["rows"], "")),
        ("code", found["code"] or "-"),
        ("retrievers", "\n".join(f"{n} {_options(o)}" for n, o in found["retrievers"].items())),
        ("feature service", f"{found['feature_service']} ({len(found['features'])} features)"),
        ("features", ", ".join(found["features"]) or "-"),
        ("metrics", _pairs(_leaves(found["metrics"]), "")),
        ("gate", _verdict(verdict)),
        ("size", f"{found['size']:,} bytes in {found['files']} files"),
        ("checksums", found["checksums"]),
        ("kept because it is", ", ".join(found["kept_because"]) or "nothing keeps it"),
        ("pinned", _pinned(found["pinned"])),
    ):
        table.add_row(name, escape(value))
    Console().print(table)


def _move(line: dict[str, Any]) -> str:
    over = f", overriding the gate: {line['override']}" if line.get("override") else ""
    was = f" (was {line['previous']})" if line["previous"] else ""
    return f"{line['at'][:19]} {line['action']}{was} by {line['who']}: {line['why']}{over}"


def _pinned(line: dict[str, Any] | None) -> str:
    return "no" if line is None else f"{line['at'][:19]} by {line['who']}: {line['why']}"


def _verdict(verdict: dict[str, Any]) -> str:
    from flows.steps.verdict import rule_line

    if not verdict:
        return "never judged"
    lines = [rule_line(rule) for rule in verdict.get("rules", ())]
    return "\n".join(["passed" if verdict.get("passed") else "REFUSED", *lines])


def _pairs(values: dict[str, Any], word: str) -> str:
    return "\n".join(f"{name}: {word}{_cell(value)}" for name, value in values.items()) or "-"


def _leaves(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if not isinstance(value, dict)}


def _options(options: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in options.items())


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _show_changes(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    title = f"From release {found['from']} to {found['to']}"
    table = Table("", "", found["from"], found["to"], "difference", title=title)
    for name, value in found.items():
        if isinstance(value, dict) and {"from", "to"} <= set(value):
            table.add_row(name, "", _cell(value["from"]), _cell(value["to"]), "")
    for section in ("data", "config", "recipe", "retrievers", "metrics"):
        for name, pair in found[section].items():
            moved = pair.get("difference")
            if section == "metrics" and pair["from"] == pair["to"]:
                continue
            cells = (escape(_cell(pair["from"])), escape(_cell(pair["to"])))
            table.add_row(section, escape(name), *cells, "" if moved is None else f"{moved:+.4g}")
    for word, names in found["features"].items():
        if names:
            table.add_row("features", word, "", escape(", ".join(names)), "")
    if not table.row_count:
        Console().print(f"{title}: they differ in nothing that a release tells of")
        return
    Console().print(table)
