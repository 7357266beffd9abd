"""`amalgam sources`: the declared sources, their state, and how a file would map."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from contracts.errors import BadInputError

ROWS = 5
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel="The life of a shop")(sources)


def sources(
    path: Annotated[Path | None, typer.Argument(help="A file to try, with --check.")] = None,
    check: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Show how the first rows of FILE map; nothing is kept."),
    ] = None,
    as_json: Json = False,
    demo: Annotated[bool, typer.Option("--demo", help="A public key for pseudonyms.")] = False,
) -> None:
    """List the shop's declared sources, or try one: `amalgam sources --check NAME FILE`."""
    from flows.settings_files import command_settings
    from flows.steps.sources import check_file, list_sources

    if (path is None) is not (check is None):
        raise BadInputError(
            "a source and a file belong together: amalgam sources --check NAME FILE"
        )
    settings = command_settings(demo=demo)
    if path is None or check is None:
        found = list_sources(settings)
        _say(json.dumps(found, indent=2) if as_json else _listed(found))
        return
    outcome = check_file(settings, check, path, ROWS)
    _say(json.dumps(outcome, indent=2, default=str) if as_json else _checked(outcome))


def _listed(found: list[dict[str, Any]]) -> str:
    if not found:
        return "no source is declared; see docs/sources.md"
    lines = []
    for item in found:
        mark = f", up to {item['mark']}" if item["mark"] is not None else ""
        lines += [
            f"{item['name']} -> {item['table']}: {item['files']} files, "
            f"{item['rows']:,} rows{mark}",
            *(f"    {place}" for place in item["from"]),
        ]
    return "\n".join(lines)


def _checked(outcome: dict[str, Any]) -> str:
    lines = [f"for {outcome['table']}:"]
    for row in outcome["mapped"]:
        given = ", ".join(
            f"{name} = {value}"
            for name, value in row.items()
            if name != "line" and value is not None
        )
        lines.append(f"line {row['line']}: {given}")
    for row in outcome["refused"]:
        lines.append(f"line {row['line']} REFUSED: {row['rule']}")
    return "\n".join(lines)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
