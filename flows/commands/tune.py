"""`amalgam tune`: search the options of a model, on data as a training reads them."""

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel="The life of a shop")(tune)


def tune(
    model: Annotated[
        str,
        typer.Argument(help="A retriever's name, `ranker` (its trees), or `event_weights`."),
    ],
    trials: Annotated[
        int,
        typer.Option(min=1, help="Finished trials the search is to have, earlier runs counted."),
    ] = 30,
    timeout: Annotated[
        float | None, typer.Option(metavar="MINUTES", help="Begin no trial after so long.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the search.")] = 7,
    write: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Put the winner into this settings file."),
    ] = None,
    as_of: Annotated[
        str | None,
        typer.Option(metavar="RELEASE", help="Read the same rows again that a release read."),
    ] = None,
    now: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="The moment it is for, ISO 8601, UTC."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    demo: Annotated[bool, typer.Option("--demo", help="A public key for pseudonyms.")] = False,
) -> None:
    """Search a model's options, by NDCG on later time; the test window is never used.

    The first trial is the present settings: the winner is never worse on these data.

    Run it again to go on; with all trials done, it prints what came of them.

    The winner lies in AMALGAM_HOME/tuning/MODEL.toml; --write puts it into your settings.
    """
    from contracts.errors import NotFoundError
    from flows.cli import asked_moment
    from flows.settings_files import command_settings
    from models.search_spaces import check_model

    check_model(model)
    if write is not None and not write.is_file():
        raise NotFoundError(f"settings file {write} does not exist; copy configs/default.toml")
    settings = command_settings(demo=demo)
    from flows.environment import enter
    from flows.show import working
    from flows.steps.trials import TuneRequest
    from flows.steps.tune import tune as run
    from flows.steps.winner import keep_winner

    request = TuneRequest(model, trials, timeout, seed, asked_moment(now), as_of)
    with working(f"tune {model}"):
        enter(settings)
        outcome = run(settings, request, written=datetime.now(UTC))
    if write is not None:
        keep_winner(outcome, write)
    if as_json:
        sys.stdout.write(json.dumps(outcome, indent=2) + "\n")
    else:
        show_tuning(outcome, write)


def show_tuning(outcome: dict[str, Any], written: Path | None = None) -> None:
    """Print the best trials, what came of the others, and where the winner lies."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    states = ", ".join(f"{count} {name}" for name, count in outcome["states"].items() if count)
    table = Table(title=f"{outcome['model']}: {outcome['finished']} trials ({states})")
    table.add_column("trial", justify="right")
    table.add_column(outcome["metric"].upper(), justify="right")
    table.add_column("to present", justify="right")
    table.add_column("seconds", justify="right")
    table.add_column("options")
    for row in outcome["trials"]:
        name = "present" if row["present"] else str(row["number"])
        table.add_row(
            name,
            f"{row['value']:.4f}",
            _lift(row["value"], outcome["present"]),
            f"{row['seconds']:.1f}",
            _options(row["params"]),
        )
    console.print(table)
    for reason in outcome["failures"]:
        console.print(f"[yellow]failed[/] {escape(reason)}", soft_wrap=True)
    if outcome["best"]["present"]:
        console.print("the present settings are the best of these")
    console.print(f"winner: {outcome['file']}", soft_wrap=True)
    if written is not None:
        console.print(f"written to {written}; the next `amalgam train` with it uses it")


def _lift(value: float, present: float | None) -> str:
    return "-" if not present else f"{value / present - 1:+.1%}"


def _options(params: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in params.items()
    )
