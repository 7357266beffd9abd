"""`amalgam profile USER`: what is known of a shopper, to be read by people."""

import json
import sys
from typing import Annotated, Any

import typer

WINDOWS_DAYS = (1, 7, 30, 90)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel="Serve and look")(profile)


def profile(
    user: Annotated[str, typer.Argument(help="The shopper's id, as the shop knows it.")],
    at: Annotated[
        str | None, typer.Option(metavar="TIME", help="The moment it is for. Default: now.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    demo: Annotated[
        bool, typer.Option("--demo", help="A public key for pseudonyms: to look around only.")
    ] = False,
) -> None:
    """Show what is known of a shopper: habits, preferences, newest events. Unknown: exit 3."""
    from flows.cli import asked_moment
    from flows.settings_files import command_settings
    from flows.steps.outcome import moment
    from flows.steps.profile import shopper_profile

    settings = command_settings(demo=demo)
    found = shopper_profile(settings, user, moment(settings, asked_moment(at)))
    if as_json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
    else:
        show_profile(found)


def show_profile(found: dict[str, Any]) -> None:
    """Print a profile as tables."""
    from rich.console import Console

    console = Console()
    console.print(f"[bold]Shopper {found['shopper'][:12]}…[/]  at {found['at'][:16]} UTC")
    for table in (_habits(found), _windows(found["figures"]), _preferences(found), _events(found)):
        console.print(table)


def _habits(found: dict[str, Any]) -> Any:
    from rich.markup import escape
    from rich.table import Table

    figures = found["figures"]
    table = Table(title="Habits", show_header=False)
    table.add_column(style="bold")
    table.add_column()
    shares = ("night", "morning", "afternoon", "evening")
    hours = ", ".join(f"{part} {_percent(figures[f'{part}_share'])}" for part in shares)
    disliked = escape(", ".join(item["title"] or item["item_id"] for item in found["dislikes"]))
    for name, value in (
        ("since", f"{found['since'][:16]} ({_number(figures['tenure_days'])} days)"),
        ("last seen", f"{found['last_seen'][:16]}"),
        ("buys", f"{_number(figures['purchase_moments'])} times, {_basket(figures)} each"),
        ("usual price", _price(figures)),
        ("sends back", f"{_percent(figures['return_share'])} of the purchases"),
        ("rates", f"{_number(figures['rating_mean'])} on average"),
        ("active (UTC)", f"{hours}; weekends {_percent(figures['weekend_share'])}"),
        ("knows", f"{_number(figures['distinct_items'])} items of the newest events"),
        ("dislikes", disliked or "-"),
    ):
        table.add_row(name, value)
    return table


def _windows(figures: dict[str, float | None]) -> Any:
    from rich.table import Table

    table = Table(title="The last days")
    table.add_column("days", justify="right")
    names = ("views", "carts", "purchases", "returns", "carts_spend", "purchases_spend")
    for name in names:
        table.add_column(name.replace("_spend", " (money)"), justify="right")
    for days in WINDOWS_DAYS:
        table.add_row(str(days), *(_number(figures[f"{name}_{days}d"]) for name in names))
    return table


def _preferences(found: dict[str, Any]) -> Any:
    from itertools import zip_longest

    from rich.markup import escape
    from rich.table import Table

    kinds = ("categories", "brands", "tags")
    table = Table(*kinds, title="Prefers (share of what was done, newer counts more)")
    cells = [
        [f"{escape(label['name'])} [dim]{label['weight']:.0%}[/]" for label in found[kind]]
        for kind in kinds
    ]
    for row in zip_longest(*cells, fillvalue=""):
        table.add_row(*row)
    return table


def _events(found: dict[str, Any]) -> Any:
    from rich.markup import escape
    from rich.table import Table

    table = Table("when", "what", "item", "title", title="Newest events")
    table.add_column("price", justify="right")
    for event in found["events"]:
        when = event["event_timestamp"][:16].replace("T", " ")
        table.add_row(
            when,
            event["event_type"],
            escape(event["item_id"]),
            escape(event["title"]),
            _number(event["price"]),
        )
    return table


def _basket(figures: dict[str, float | None]) -> str:
    return f"{_number(figures['basket_items'])} items, {_number(figures['basket_units'])} units"


def _price(figures: dict[str, float | None]) -> str:
    """The level is a mean of log(1 + price): the price in the middle, and the usual factor."""
    from math import exp, expm1

    level, spread = figures["price_level"], figures["price_spread"]
    if level is None or spread is None:
        return "-"
    return f"about {expm1(level):,.2f}, by a factor of {exp(spread):.1f} up or down"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.2f}".rstrip("0").rstrip(".")


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"
