"""`amalgam recommend-all`: a list for every known shopper, as Parquet."""

import sys
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("recommend-all", rich_help_panel="Serve and look")(recommend_all)


def recommend_all(
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where exports are kept.")],
    k: Annotated[int, typer.Option("-k", "--k", min=1, max=200, help="Length of a list.")] = 20,
    scenario: Annotated[str, typer.Option(help="A scenario of the shop's rules.")] = "home",
    now: Annotated[
        str | None, typer.Option(metavar="TIME", help="The moment it is for. Default: now.")
    ] = None,
    demo: Annotated[bool, typer.Option("--demo", help="A public key for pseudonyms.")] = False,
) -> None:
    """Write a list for every known shopper to Parquet: the service's own lists.

    Run again after it was ended, it goes on where it was.
    """
    from flows.cli import asked_moment
    from flows.environment import enter
    from flows.settings_files import command_settings
    from flows.show import working

    settings = command_settings(demo=demo)
    with working("recommend-all"):
        enter(settings)
        from flows import pipeline

        told = pipeline.recommend_all(
            out=str(out.absolute()), k=k, scenario=scenario, now=asked_moment(now)
        )
    rate = f", {told['rate']:,.0f} shoppers a second" if told["rate"] else ""
    sys.stdout.write(
        f"{told['rows']:,} places for {told['shoppers']:,} shoppers from release "
        f"{told['release']}{rate}\n{told['folder']}\n"
    )
