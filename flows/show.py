"""What people see in a terminal.

The demo's chapters and closing table, and the answers of commands.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows.steps.outcome import rows_sum

if TYPE_CHECKING:
    from flows.demo import Story
    from flows.up import Part


TABLES = ("repeats_allowed", "new_items_only")


class RichTeller:
    """Chapters as lines: a spinner with what is being done and the time, then a mark when it is
    done.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console()
        self._started = time.monotonic()

    @contextmanager
    def chapter(self, title: str) -> Iterator[Callable[[str], None]]:
        """Show `title` while the block runs, and how long it took when it is done."""
        began = time.monotonic()
        if self.console.is_terminal:
            with self.console.status(title) as status:
                yield lambda now: status.update(f"{title} [dim]{now}[/]")
        else:
            yield lambda now: None
        took, so_far = time.monotonic() - began, time.monotonic() - self._started
        self.console.print(f"[green]✓[/] {title} [dim]{took:.1f} s  (at {so_far:.0f} s)[/]")


@contextmanager
def working(title: str) -> Iterator[None]:
    """Show a spinner with the newest line that the steps told, for as long as the block lasts."""
    with Console(stderr=True).status(f"{title}: starting") as status:

        class Shown(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                status.update(f"{title}: {record.getMessage()}")

        logger, handler = logging.getLogger("amalgam"), Shown()
        logger.setLevel(logging.INFO)
        logger.propagate = False
        logger.addHandler(handler)
        try:
            yield
        finally:
            logger.removeHandler(handler)


def show_story(story: "Story", console: Console | None = None) -> None:
    """Print the demo's closing table and where its reports lie."""
    console = console or Console()
    table = Table(title=f"The life of a shop: {story.shop.name}", show_header=False)
    table.add_column(style="bold")
    table.add_column()
    for name, value in story_rows(story):
        table.add_row(name, value)
    console.print(table)
    console.print(leaderboard(story.trainings[0]))
    console.print(leaderboard(story.trainings[1]))
    console.print("[bold]Reports[/]")
    for path in report_paths(story):
        console.print(f"  {path}", soft_wrap=True)
    console.print(
        "Next: [bold]make up[/] to look around, [bold]amalgam releases[/] to list releases"
    )


def story_rows(story: "Story") -> list[tuple[str, str]]:
    """Return the closing table: a name and a sentence with figures for each thing that happened."""
    rules: dict[str, int] = {}
    for report in story.ingests:
        for rule, count in report["rules"].items():
            rules[rule] = rules.get(rule, 0) + count
    found = [
        ("Ingested", rows_sum(*story.ingests)),
        ("Rows by broken rule", "\n".join(f"{n:,}  {rule}" for rule, n in by_count(rules)) or "-"),
    ]
    for training in story.trainings:
        found.append((f"Release {training['version']}", _release_line(story, training)))
    drifted = [column["name"] for column in story.drift["columns"] if column["drifted"]]
    moved = f"{', '.join(drifted) or 'nothing'} moved"
    moved += "" if story.drift["retrain"] else "; the second training was started by hand"
    traffic, answer = story.traffic, story.answers["opening"]
    released = ", ".join(f"{n} from {v}" for v, n in sorted(traffic["releases"].items()))
    same = _items(story.answers["before"]) == _items(story.answers["after"])
    return [
        *found,
        ("Drift", f"{story.drift['verdict']}: {moved}"),
        (
            f"Served {story.shop.shopper}",
            f"{_titles(answer)}\n(release {answer['release']}, rung {answer['rung']})",
        ),
        (
            "While releases moved",
            f"{traffic['requests']} requests, {traffic['failed']} failed ({released}), "
            f"slowest {traffic['slowest_ms']:.0f} ms",
        ),
        (
            "Rollback",
            f"to release {story.rollback['version']}: the same request gives "
            f"{'the same items as before' if same else 'OTHER items than before'}",
        ),
        ("Duration", f"{story.seconds:.0f} s"),
    ]


def by_count(rules: dict[str, int]) -> list[tuple[str, int]]:
    """Return rules with their counts, most broken first."""
    return sorted(rules.items(), key=lambda pair: (-pair[1], pair[0]))


def _release_line(story: "Story", training: dict[str, Any]) -> str:
    version = training["version"]
    if version in story.overrides:
        verdict = f"[red]refused[/], promoted with --override: {story.overrides[version]}"
    else:
        verdict = "passed the gate"
    return f"{verdict}; serves {training['serves']}; data to {training['data_end'][:10]}"


def _items(answer: dict[str, Any]) -> list[str]:
    return [item["item_id"] for item in answer["items"]]


def _titles(answer: dict[str, Any]) -> str:
    return "\n".join(
        f"{item['position']}. {item.get('title') or item['item_id']}"
        for item in answer["items"][:5]
    )


def leaderboard(training: dict[str, Any]) -> Table:
    """Return each model and fusion against popularity, on the release's test weeks."""
    table = Table(title=f"Release {training['version']}: NDCG@10 on later time, full ranking")
    table.add_column("model")
    for name in TABLES:
        table.add_column(name.replace("_", " "), justify="right")
        table.add_column("to popularity", justify="right")
    tables = [training["leaderboard"][name] for name in TABLES]
    served = training["serves"].partition(":")[2]
    for model in sorted(tables[0], key=lambda name: -tables[0][name]["ndcg@10"]):
        cells = [f"[bold]{model} (served)[/]" if model == served else model]
        for figures in tables:
            value, lift = figures[model]["ndcg@10"], figures[model]["vs_popularity"]
            cells += [f"{value:.4f}", "-" if lift is None else f"{lift:+.0%}"]
        table.add_row(*cells)
    return table


def report_paths(story: "Story") -> list[str]:
    """Return the pages that the demo wrote."""
    pages = [report.get("page") for report in story.ingests]
    pages += [training.get("report") for training in story.trainings]
    return [str(page) for page in [*pages, story.drift.get("report")] if page]


def show_ingest(outcome: dict[str, Any]) -> None:
    """Print what an ingest did, as the sum that must hold."""
    console = Console()
    console.print(
        f"{outcome['files']} files ({outcome['files_known']} known already): {rows_sum(outcome)}"
    )
    for rule, count in by_count(outcome["rules"]):
        console.print(f"  {count:,}  {rule}")
    for warning in outcome.get("warnings", ()):
        console.print(f"  [yellow]warning[/] {escape(warning)}", soft_wrap=True)
    if page := outcome.get("page"):
        console.print(f"validation page: {page}", soft_wrap=True)


def show_training(outcome: dict[str, Any]) -> None:
    """Print the leaderboard and the verdict of a training."""
    console = Console()
    console.print(leaderboard(outcome))
    if outcome["passed"]:
        console.print(f"release {outcome['version']} passed the gate; serves {outcome['serves']}")
        if outcome.get("held"):
            console.print(f"but the champion is {outcome['held']}", soft_wrap=True)
        if begun := outcome.get("experiment"):
            console.print(
                f"experiment {begun['id']} shows it to {begun['share']:.0%} of the shoppers: "
                "amalgam experiment show",
                soft_wrap=True,
            )
    else:
        console.print(f"[red]release {outcome['version']} was refused by the gate:[/]")
        for reason in outcome["reasons"]:
            console.print(f"  {reason}")
        console.print(
            f"to promote it all the same: amalgam promote {outcome['version']} --override WHY"
        )
    console.print(f"report: {outcome['report']}", soft_wrap=True)


def show_releases(releases: list[dict[str, Any]]) -> None:
    """Print a table of releases."""
    table = Table(title="Releases")
    for name in ("version", "status", "created", "data end", "serves", "NDCG@10"):
        table.add_column(name, no_wrap=True)
    for release in releases:
        metrics = release["metrics"]
        table.add_row(
            release["version"],
            release["status"],
            str(release["created"])[:16].replace("T", " "),
            str(release["data_end"])[:10],
            str(metrics.get("serves", "-")),
            f"{metrics['ndcg@10']:.4f}" if "ndcg@10" in metrics else "-",
        )
    Console().print(table)


def show_answer(answer: dict[str, Any]) -> None:
    """Print a list of recommendations."""
    table = Table(title=f"release {answer['release']}, rung {answer['rung']}")
    for name in ("#", "item", "title", "score", "sources"):
        table.add_column(name)
    for item in answer["items"]:
        table.add_row(
            str(item["position"]),
            item["item_id"],
            item.get("title") or "",
            f"{item['score']:.4f}",
            ", ".join(item["sources"]),
        )
    Console().print(table)


def show_addresses(parts: "list[Part]") -> None:
    """Print where the parts of `amalgam up` answer."""
    console = Console()
    console.print("[bold green]Amalgam is up.[/] End it with Ctrl-C.")
    names = {"prefect": "Prefect UI", "service": "service", "reports": "Evidently UI"}
    for part in parts:
        if part.address:
            console.print(f"  {names[part.name]:<14} {part.address}")
            for name, page in part.pages:
                console.print(f"  {name:<14} {page}")
