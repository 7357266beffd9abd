"""`amalgam search QUERY`: what the running service finds, to be read by people."""

import json
import sys
from typing import Annotated, Any

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel="Serve and look")(search)


def search(
    query: Annotated[str, typer.Argument(help="What a shopper would type.")],
    user: Annotated[
        str | None, typer.Option(metavar="ID", help="Order the matches for this shopper.")
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, max=200, help="Length of the list.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    demo: Annotated[
        bool, typer.Option("--demo", help="A public key for pseudonyms: to look around only.")
    ] = False,
) -> None:
    """Search the products of the running service."""
    from flows.settings_files import command_settings
    from flows.traffic import ask
    from services.keys import own_key

    request: dict[str, Any] = {"query": query, "k": k}
    if user is not None:
        request["user_id"] = user
    answer = ask(command_settings(demo=demo), request, key=own_key(), path="/v1/search")
    if as_json:
        sys.stdout.write(json.dumps(answer, indent=2, ensure_ascii=False) + "\n")
    else:
        show_found(answer)


def show_found(answer: dict[str, Any]) -> None:
    """Print a page of a search."""
    from rich.console import Console
    from rich.table import Table

    found = f"{answer['total']:,} found, relaxed: {answer['relaxed']}, rung {answer['rung']}"
    table = Table(title=found, caption=answer["message"])
    for name in ("#", "item", "title", "category", "price", "score"):
        table.add_column(name)
    for item in answer["items"]:
        price = item.get("price")
        table.add_row(
            f"{item['position']}{' near' if item['near'] else ''}",
            item["item_id"],
            item.get("title") or "",
            item.get("category") or "",
            "" if price is None else f"{price:,.2f}",
            f"{item['score']:.3f}",
        )
    Console().print(table)
