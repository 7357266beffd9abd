"""`amalgam rules`: check a rules file, put it in use, and say what is in use."""

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from contracts.settings import Settings
    from services.rules import Rules

SERVED_SECONDS = 30.0
rules = typer.Typer(help="What the shop wants of its lists (docs/rules.md).", no_args_is_help=True)
File = Annotated[Path, typer.Argument(help="A rules file, TOML.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(rules, name="rules", rich_help_panel="The life of a shop")


@rules.command()
def check(file: File) -> None:
    """Say whether a file is right, and which names in it the catalogue does not know."""
    from contracts.settings import load_settings
    from services.rules_source import check_rules

    settings = load_settings()
    found = check_rules(settings, file)
    _say(f"{file} is right: {_told(found)}")
    _warn(settings, found)


@rules.command(name="set")
def set_(
    file: File,
    reason: Annotated[str, typer.Option(help="Why, for the audit log.")] = "by hand",
) -> None:
    """Put a file in use; done when every worker of the service uses it. A bad file changes
    nothing.
    """
    from contracts.settings import load_settings
    from flows.commands.who import operator
    from services.registry import Releases
    from services.rules_source import publish_rules

    settings = load_settings()
    found = publish_rules(settings, file, who=operator(), why=reason, now=datetime.now(UTC))
    workers = Releases(settings.registry).workers
    served = workers.wait(found.digest, SERVED_SECONDS, what="rules")
    _say(f"rules {found.digest}, in use by {len(served)} workers: {_told(found)}")
    _warn(settings, found)


@rules.command()
def show(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Say which rules are in use, and by which worker."""
    from contracts.settings import load_settings
    from services.registry import Releases
    from services.rules_source import rules_source

    settings = load_settings()
    source = rules_source(settings)
    found = source.read()
    workers = {str(one.pid): one.rules for one in Releases(settings.registry).workers.live()}
    if as_json:
        told = {
            "file": str(source.path),
            "digest": found.digest,
            "error": found.error,
            "scenarios": sorted(found.presets),
            "workers": workers,
        }
        _say(json.dumps(told, indent=2))
        return
    _say(f"{source.path}: {found.digest}, {_told(found)}")
    if found.error:
        _say(f"the file as it is now is not in use: {found.error}")
    for pid, digest in workers.items():
        _say(f"worker {pid}: {digest}")


def _told(found: "Rules") -> str:
    return f"scenarios {', '.join(sorted(found.presets))}"


def _warn(settings: "Settings", found: "Rules") -> None:
    """Name what the current snapshot does not know."""
    if not (settings.features / "snapshot.json").is_file():
        return
    from features.snapshot import current_snapshot
    from services.rules_check import unknown_names
    from services.shelf import load_shelf

    snapshot = current_snapshot(settings.features)
    if snapshot is None:
        return
    for name in unknown_names(found, load_shelf(snapshot)):
        _say(f"no item of snapshot {snapshot.id} has {name}")


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
