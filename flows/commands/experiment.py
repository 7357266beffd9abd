"""`amalgam experiment`: a release beside the champion on a share of the shoppers."""

import json
import sys
from enum import StrEnum
from typing import Annotated, Any

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Why = Annotated[str, typer.Option(metavar="REASON", help="Why, for the audit log.")]
Demo = Annotated[bool, typer.Option("--demo", help="A public key for pseudonyms.")]


class KindChoice(StrEnum):
    """What an experiment does with its challenger."""

    CANARY = "canary"
    AB = "ab"
    SHADOW = "shadow"


experiment = typer.Typer(
    help="Compare a release with the champion on a share of the shoppers.", no_args_is_help=True
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(experiment, name="experiment", rich_help_panel="The life of a shop")


@experiment.command()
def start(
    version: Annotated[str, typer.Argument(help="A version that `amalgam releases` lists.")],
    kind: Annotated[
        KindChoice,
        typer.Option(
            help="canary: promoted or rolled back by itself; ab: never promoted by itself; "
            "shadow: scored beside, shown to nobody."
        ),
    ] = KindChoice.CANARY,
    share: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="Of the shoppers. Default: what the settings say."),
    ] = None,
    why: Why = "by hand",
    demo: Demo = False,
) -> None:
    """Start one; done when every worker serves it. One at a time.

    `amalgam up` looks at it every hour; without it, run `amalgam experiment judge`.
    """
    begun = _run(
        "start_experiment", demo, version=version, kind=kind.value, share=share, reason=why
    )
    _say(
        f"experiment {begun['id']} ({begun['kind']}): release {begun['challenger']} beside "
        f"{begun['control']} for {begun['share']:.0%} of the shoppers, "
        f"served by {begun['workers']} workers"
    )


@experiment.command()
def show(as_json: AsJson = False, demo: Demo = False) -> None:
    """Show the running one as it stands, and those that ended. Changes nothing."""
    from contracts.settings import load_settings
    from flows.steps.experiments import measure_experiment
    from flows.steps.outcome import moment
    from services.experiments import ended_experiments

    settings = load_settings(demo=demo or None)
    found = measure_experiment(settings, moment(settings, None))
    found["ended"] = ended_experiments(settings.registry)
    if as_json:
        _say(json.dumps(found, indent=2))
    else:
        _show(found)


@experiment.command()
def judge(demo: Demo = False) -> None:
    """Look at the running one now, and do what is to be done, as `amalgam up` does every hour."""
    found = _run("judge_experiment", demo)
    if found["running"] is None:
        _say("no experiment is running")
        return
    _say(f"{found['action']}: {'; '.join(found['reasons'])}")


@experiment.command()
def end(
    promote: Annotated[
        bool, typer.Option("--promote", help="Its challenger becomes the champion.")
    ] = False,
    rollback: Annotated[
        bool,
        typer.Option(
            "--rollback", help="As if found worse: holds what would train it again by itself."
        ),
    ] = False,
    why: Why = "by hand",
    demo: Demo = False,
) -> None:
    """End the running one; without an option the champion stays, and nothing is held."""
    from contracts.errors import BadInputError

    if promote and rollback:
        raise BadInputError("--promote and --rollback are one or the other; give one of them")
    outcome = "promoted" if promote else "rolled_back" if rollback else "stopped"
    ended = _run("end_experiment", demo, outcome=outcome, reason=why)
    served = ended["challenger"] if ended["champion"] else ended["control"]
    _say(f"experiment {ended['id']} is over: {_word(outcome)}; release {served} is the champion")


def _run(flow: str, demo: bool, **parameters: Any) -> dict[str, Any]:
    from flows.commands.who import operator
    from flows.environment import enter
    from flows.settings_files import command_settings
    from flows.show import working

    settings = command_settings(demo=demo)
    given = {name: value for name, value in parameters.items() if value is not None}
    with working("experiment"):
        enter(settings)
        from flows import pipeline

        if flow == "judge_experiment":
            return pipeline.judge_experiment()
        chosen: Any = getattr(pipeline, flow)
        done: dict[str, Any] = chosen(**given, operator=operator())
        return done


def _show(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    running = found["running"]
    if running is None:
        console.print("no experiment is running")
    else:
        _show_running(found)
    if not found["ended"]:
        return
    past = Table("id", "kind", "release", "beside", "ended", "how", "by", "why", title="Ended")
    for line in reversed(found["ended"]):
        names = ("id", "kind", "challenger", "control")
        cells = [str(line[name]) for name in names]
        how = _word(line["outcome"])
        past.add_row(*cells, line["ended"][:16], how, line["ended_by"], line["ended_why"])
    console.print(past)


def _show_running(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console, running, decision = Console(), found["running"], found["decision"]
    console.print(
        f"experiment {running['id']} ({running['kind']}) since {running['started'][:16]}, by "
        f"{escape(running['who'])}: {escape(running['why'])}",
        soft_wrap=True,
    )
    if decision is not None:
        table = Table("arm", "release", "shoppers", "lists", found["metric"], "a shopper")
        for arm in ("control", "challenger"):
            sums = decision[arm]
            counts = (f"{sums[name]:,.0f}" for name in ("shoppers", "lists", "total"))
            table.add_row(arm, running[arm], *counts, f"{sums['mean']:.4f}")
        console.print(table)
    console.print(f"{found['action']}: {escape('; '.join(found['reasons']))}", soft_wrap=True)


def _word(outcome: str) -> str:
    return outcome.replace("_", " ")


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
