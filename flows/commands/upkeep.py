"""`amalgam upkeep`: the lake compacted, and what nothing reads any more deleted."""

import sys
from typing import Annotated, Any

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel="The life of a shop")(upkeep)


def upkeep(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing, only tell.")] = False,
    demo: Annotated[bool, typer.Option("--demo", help="A public key for pseudonyms.")] = False,
) -> None:
    """Put the lake's small files together and free what nothing reads any more.

    Safe at any time beside everything else. Nightly under `up`.
    """
    from flows.environment import enter
    from flows.settings_files import command_settings
    from flows.show import working
    from flows.steps.outcome import moment
    from flows.steps.upkeep import free_space

    settings = command_settings(demo=demo)
    with working("upkeep"):
        if dry_run:
            outcome = free_space(settings, moment(settings, None), dry_run=True)
        else:
            enter(settings)
            from flows import pipeline

            outcome = pipeline.upkeep()
    sys.stdout.write(_told(outcome))


def _told(outcome: dict[str, Any]) -> str:
    would = "would be " if outcome["dry_run"] else ""
    lines = [f"{outcome['bytes']:,} bytes in {outcome['files']:,} files {would}freed"]
    lines += [
        f"  {kind}: {found['files']:,} files, {found['bytes']:,} bytes"
        for kind, found in outcome["freed"].items()
    ]
    lines.append(f"{outcome['rows_expired']:,} rows of quarantine {would}expired")
    dropped, kept = outcome["releases"]["deleted"], outcome["releases"]["kept"]
    if dropped:
        names = ", ".join(found["version"] for found in dropped)
        lines.append(f"releases {would}deleted: {names}; kept: {', '.join(kept)}")
    if services := outcome["releases"]["feature_services"]:
        lines.append(f"feature services {would}deleted: {', '.join(services)}")
    lines += [
        f"  {found['table']}: {found['files_before']:,} files -> {found['files_after']:,}, "
        f"{found['bytes_before']:,} bytes -> {found['bytes_after']:,}"
        for found in outcome["tables"]
    ]
    return "\n".join(lines) + "\n"
