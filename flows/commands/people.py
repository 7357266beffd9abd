"""`amalgam erase`, `amalgam rotate-key`, `amalgam quarantine`: people's rights, refused rows."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

LIFE = "The life of a shop"
Demo = Annotated[bool, typer.Option("--demo", help="A public key for pseudonyms.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(rich_help_panel=LIFE)(erase)
    app.command("rotate-key", rich_help_panel=LIFE)(rotate_key)
    app.command(rich_help_panel=LIFE)(quarantine)


def erase(
    user: Annotated[str, typer.Argument(help="The shopper's id, as the shop knows it.")],
    token: Annotated[
        bool, typer.Option("--token", help="Only print the token, for a run in the Prefect UI.")
    ] = False,
    demo: Demo = False,
) -> None:
    """Erase a shopper from everything below AMALGAM_HOME, for good. Run again if it was ended.

    The id goes no further than this command: the flow is given a token.
    """
    from contracts.pseudonyms import Pseudonymiser
    from flows.settings_files import command_settings

    settings = command_settings(demo=demo)
    people = Pseudonymiser.from_environment(demo=settings.demo)
    named = people.token(people.one(user.strip(), "user"))
    if token:
        _say(named)
        return
    from flows.environment import enter
    from flows.show import working

    with working("erase"):
        enter(settings)
        from flows import pipeline

        outcome = pipeline.erase(token=named)
    rows = ", ".join(f"{count:,} of {table}" for table, count in outcome["rows"].items())
    _say(
        f"erased: {rows or 'no rows'}, {outcome['sessions']:,} sessions, "
        f"{outcome['feature_rows']:,} feature rows, {outcome['landed_files']:,} landed files; "
        f"rows of before {outcome['erased_at']} will not come in again"
    )


def rotate_key(demo: Demo = False) -> None:
    """Give all people new pseudonyms, under the last key of AMALGAM_ID_KEY=OLD,NEW.

    End `amalgam up` and the service first; then `amalgam materialize`. Run again if it was ended.
    """
    from datetime import UTC, datetime

    from flows.environment import enter
    from flows.settings_files import command_settings
    from flows.show import working
    from flows.steps import outcome, people

    settings = command_settings(demo=demo)
    with working("rotate-key"):
        enter(settings)
        now = outcome.moment(settings, None if settings.demo else datetime.now(UTC))
        rows = people.rotate_key(settings, now)
    if not rows:
        _say("nothing to do: the lake has the pseudonyms of all these keys already")
        return
    _say(f"{sum(rows.values()):,} rows have new pseudonyms; now run: amalgam materialize")


def quarantine(
    rule: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Only rows whose rules hold this text.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Rows shown with --rule.")] = 20,
    retry: Annotated[
        bool, typer.Option("--retry", help="Offer them again, after a mapping or rule was mended.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    demo: Demo = False,
) -> None:
    """List rows that were refused, by rule; their ids are pseudonyms. Or offer them again."""
    from flows.settings_files import command_settings

    settings = command_settings(demo=demo)
    if retry:
        _retry(settings, rule, as_json=as_json)
        return
    from lake.retry import refused_rows, rules_of
    from lake.store import Lake

    lake = Lake(settings.lake)
    found = rules_of(lake) if rule is None else refused_rows(lake, rule, limit)
    if as_json:
        _say(json.dumps(found, indent=2, ensure_ascii=False, default=str))
        return
    lines = map(_rule_line if rule is None else _row_line, found)
    _say("\n".join(lines) or "nothing is in quarantine")


def _retry(settings: Any, rule: str | None, *, as_json: bool) -> None:
    from flows.environment import enter
    from flows.show import working
    from flows.steps import outcome, people

    with working("quarantine"):
        enter(settings)
        found = people.retry_quarantine(settings, rule, outcome.moment(settings, None))
    if as_json:
        _say(json.dumps(found, indent=2))
        return
    _say(
        f"{found['offered']:,} rows offered again: {found['accepted']:,} are in the lake, "
        f"{found['refused']:,} were refused again; {found['kept']:,} were never cut into cells"
    )


def _rule_line(entry: dict[str, Any]) -> str:
    where = f"{Path(entry['file']).name}:{entry['line']}"
    return (
        f"{entry['rows']:>9,}  {entry['table']}: {entry['rule']}\n"
        f"{'':11}{where}  {entry['row'] or 'a line that could not be cut into cells'}"
    )


def _row_line(row: dict[str, Any]) -> str:
    return f"{row['file']}:{row['line']}  {row['table']}: {row['rule']}\n  {row['row'] or '-'}"


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
