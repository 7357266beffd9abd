"""The `amalgam` command. Heavy libraries are imported inside the commands: --help answers at once.

Exit codes: 0 done, 1 it went wrong, 2 bad input or settings, 3 not found, 4 refused, 5 unavailable.
"""

import atexit
import glob
import json
import logging
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from contracts.errors import AmalgamError, BadInputError
from flows.commands import experiment as experiment_commands
from flows.commands import export as export_commands
from flows.commands import people as people_commands
from flows.commands import profile as profile_commands
from flows.commands import release as release_commands
from flows.commands import rules as rules_commands
from flows.commands import search as search_commands
from flows.commands import sources as sources_commands
from flows.commands import status as status_commands
from flows.commands import tune as tune_commands
from flows.commands import upkeep as upkeep_commands
from flows.commands.who import operator

app = typer.Typer(
    name="amalgam",
    help="A recommendation platform that a shop runs itself, below AMALGAM_HOME (./var).",
    epilog="Exit codes: 0 done, 1 failed, 2 bad input, 3 not found, 4 refused, 5 unavailable.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Now = Annotated[
    str | None,
    typer.Option(metavar="TIME", help="The moment it is for, ISO 8601, UTC. Default: the clock."),
]
Demo = Annotated[
    bool,
    typer.Option(
        "--demo", help="A public key for pseudonyms and no API keys: to look around only."
    ),
]
LIFE, RUN = "The life of a shop", "Serve and look"


@app.command(rich_help_panel=RUN)
def demo(
    data: Annotated[
        Path | None,
        typer.Option(
            help="An order export such as online_retail.csv.gz. Default: a generated shop."
        ),
    ] = None,
    events: Annotated[int, typer.Option(min=1_000, help="Events of the generated shop.")] = 60_000,
    seed: Annotated[int, typer.Option(help="Seed of the generated shop.")] = 7,
    config: Annotated[
        Path | None, typer.Option(help="Settings file. Default: configs/demo.toml.")
    ] = None,
) -> None:
    """Tell the whole story on a shop.

    From files to a served, watched and rolled-back recommendation.
    """
    from flows.demo import run_demo
    from flows.settings_files import demo_settings
    from flows.show import RichTeller, show_story

    settings, path = demo_settings(config)
    _say_demo()
    teller = RichTeller()
    story = run_demo(settings, data, events=events, seed=seed, config=path, tell=teller)
    show_story(story)


@app.command(rich_help_panel=LIFE)
def ingest(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Files, folders, patterns in quotes; they stay where they are. Without any: all "
            "that landed, was journaled, lies in watched folders, is new in declared databases."
        ),
    ] = None,
    source: Annotated[
        str | None, typer.Option(metavar="NAME", help="What the files are, where names do not say.")
    ] = None,
    accept_blocked: Annotated[
        str | None,
        typer.Option(metavar="REASON", help="Let in what rules over a whole batch would block."),
    ] = None,
    now: Now = None,
    demo: Demo = False,
) -> None:
    """Take files through the validation gate into the lake."""
    named = [str(path.absolute()) for path in paths or ()]
    for path in named:
        if not os.path.exists(path) and not glob.has_magic(path):
            raise BadInputError(f"{path} does not exist; check the path")
    outcome = _run(
        "ingest",
        demo,
        paths=named or None,
        now=asked_moment(now),
        source=source,
        accept_blocked=accept_blocked,
    )
    from flows.show import show_ingest

    show_ingest(outcome)


@app.command(rich_help_panel=LIFE)
def materialize(now: Now = None, demo: Demo = False) -> None:
    """Bring the online store and the catalogue snapshot up to now."""
    outcome = _run("materialize", demo, now=asked_moment(now))
    _say(f"{outcome['online']:,} rows online, snapshot {outcome['snapshot']}")


@app.command(rich_help_panel=LIFE)
def train(
    now: Now = None,
    reason: Annotated[str, typer.Option(help="Why, for the audit log.")] = "by hand",
    as_of: Annotated[
        str | None,
        typer.Option(metavar="RELEASE", help="Read the same rows again that a release read."),
    ] = None,
    demo: Demo = False,
) -> None:
    """Fit, fuse, prove; the gate decides whether the release becomes champion. Refused: exit 4."""
    outcome = _run(
        "train", demo, now=asked_moment(now), reason=reason, as_of=as_of, operator=operator()
    )
    from flows.show import show_training

    show_training(outcome)
    if not outcome["passed"]:
        raise typer.Exit(4)


@app.command(rich_help_panel=LIFE)
def monitor(now: Now = None, demo: Demo = False) -> None:
    """Compare the newest window with the champion's reference.

    Drift starts a training under `up`.
    """
    outcome = _run("monitor", demo, now=asked_moment(now))
    _say(f"{outcome['verdict']}: {'; '.join(outcome['reasons'])}\nreport: {outcome['report']}")


@app.command(rich_help_panel=LIFE)
def releases(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List all releases with their status."""
    from contracts.settings import load_settings
    from services.registry import Releases

    found = Releases(load_settings().registry)
    if as_json:
        sys.stdout.write(json.dumps(found.releases_json(), indent=2) + "\n")
        return
    from flows.show import show_releases

    show_releases(found.releases_json())


@app.command(rich_help_panel=LIFE)
def promote(
    version: Annotated[str, typer.Argument(help="A version that `amalgam releases` lists.")],
    override: Annotated[
        str | None,
        typer.Option(metavar="REASON", help="Promote although the gate refused; audited."),
    ] = None,
    reason: Annotated[str, typer.Option(help="Why, for the audit log.")] = "by hand",
    demo: Demo = False,
) -> None:
    """Make a release the champion; done when every worker serves it."""
    outcome = _run(
        "promote", demo, version=version, override=override, reason=reason, operator=operator()
    )
    _say(f"release {outcome['version']} is the champion, served by {outcome['workers']} workers")


@app.command(rich_help_panel=LIFE)
def rollback(
    version: Annotated[
        str | None, typer.Argument(help="Default: the champion before this one.")
    ] = None,
    reason: Annotated[str, typer.Option(help="Why, for the audit log.")] = "by hand",
    demo: Demo = False,
) -> None:
    """Return to an earlier release; done when every worker serves it.

    Holds what starts by itself from bringing the other one back: see `amalgam resume`.
    """
    outcome = _run("rollback", demo, version=version, reason=reason, operator=operator())
    _say(
        f"back on release {outcome['version']} (was {outcome['previous']}), "
        f"served by {outcome['workers']} workers"
    )


@app.command(rich_help_panel=LIFE)
def resume(
    reason: Annotated[str, typer.Option(help="Why, for the audit log.")] = "by hand",
    demo: Demo = False,
) -> None:
    """End the hold after a rollback: drift starts trainings again, and they move the champion."""
    outcome = _run("resume", demo, reason=reason, operator=operator())
    _say(f"ended, it was {outcome['ended']}")


@app.command(rich_help_panel=RUN)
def serve(demo: Demo = False) -> None:
    """Run the HTTP service alone, until Ctrl-C."""
    from flows.environment import environment
    from services.serve import serve_command

    settings = _settings(demo)
    values = os.environ | environment(settings, server=False)
    command = serve_command(settings)
    os.execvpe(command[0], command, values)


@app.command(rich_help_panel=RUN)
def bento(
    version: Annotated[str | None, typer.Argument(help="Default: the champion.")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also export the Bento to this file.")
    ] = None,
) -> None:
    """Package a release with the service as a Bento (`bentoml build`), for any clean machine."""
    from contracts.errors import NotFoundError
    from contracts.settings import load_settings
    from flows.show import working
    from services.build import build_bento
    from services.registry import Releases

    releases = Releases(load_settings().registry)
    pointer = releases.champion()
    if version is None and pointer is None:
        raise NotFoundError("there is no champion to package yet; name a version, or train first")
    with working("bento"):
        tag = build_bento(releases, version or (pointer.version if pointer else ""), out=out)
    _say(f"{tag}: serve it with BENTOML_HOME={releases.home} bentoml serve {tag}")


@app.command(rich_help_panel=RUN)
def up(
    demo: Demo = False,
    schedules: Annotated[bool, typer.Option(help="Give the deployments their schedules.")] = True,
    reports: Annotated[bool, typer.Option(help="Run the Evidently UI too.")] = True,
    attached: Annotated[
        bool, typer.Option(hidden=True, help="End when standard input closes.")
    ] = False,
) -> None:
    """Run Prefect with all deployments, the service and the Evidently UI, until Ctrl-C."""
    from flows.show import show_addresses
    from flows.up import end_with_stdin, run_up
    from services.front_door import check_environment

    settings = _settings(demo)
    check_environment(settings)
    if settings.demo:
        _say_demo()
    if attached:
        end_with_stdin()
    run_up(settings, scheduled=schedules, reports_ui=reports, announce=show_addresses)


@app.command(rich_help_panel=RUN)
def recommend(
    user: Annotated[str, typer.Argument(help="The shopper's id, as the shop knows it.")],
    k: Annotated[int, typer.Option("-k", min=1, max=200, help="Length of the list.")] = 10,
    at: Annotated[
        str | None, typer.Option(metavar="TIME", help="The moment it is for. Default: now.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    demo: Demo = False,
) -> None:
    """Ask the running service what to show a shopper."""
    from flows.show import show_answer
    from flows.traffic import ask
    from services.keys import own_key

    request: dict[str, Any] = {"user_id": user, "k": k}
    if (moment := asked_moment(at)) is not None:
        request["at"] = moment.isoformat()
    answer = ask(_settings(demo), request, key=own_key())
    if as_json:
        sys.stdout.write(json.dumps(answer, indent=2) + "\n")
    else:
        show_answer(answer)


def _settings(demo: bool) -> Any:
    from flows.settings_files import command_settings

    return command_settings(demo=demo)


def _run(flow: str, demo: bool, **parameters: Any) -> dict[str, Any]:
    """Run a flow in this process; it reports to the Prefect server when that is up."""
    from flows.environment import enter
    from flows.show import working

    settings = _settings(demo)
    with working(flow):
        enter(settings)
        from flows import pipeline

        chosen: Callable[..., dict[str, Any]] = getattr(pipeline, flow)
        return chosen(**{name: value for name, value in parameters.items() if value is not None})


def asked_moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise BadInputError(
            f"time '{text}' is not ISO 8601; write it like 2026-11-20 or 2026-11-20T18:00:00+00:00"
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _say_demo() -> None:
    _say("Demo: shoppers' ids are hidden under a public key, and the service asks for no API key.")


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


experiment_commands.register(app)
export_commands.register(app)
people_commands.register(app)
profile_commands.register(app)
release_commands.register(app)
rules_commands.register(app)
search_commands.register(app)
sources_commands.register(app)
status_commands.register(app)
tune_commands.register(app)
upkeep_commands.register(app)


def main() -> None:
    """Run the command line; an AmalgamError is one clear line and its exit code."""
    logging.captureWarnings(True)  # what libraries deprecate is no news to who runs a command
    code, message = 0, ""
    try:
        app()
    except AmalgamError as error:
        code, message = error.exit_code, str(error)
    except KeyboardInterrupt:
        code, message = 130, "interrupted"
    except SystemExit as end:  # how Typer returns
        code = end.code if isinstance(end.code, int) else 0
    if message:
        sys.stderr.write(f"amalgam: {message}\n")
    if "duckdb" in sys.modules:
        # DuckDB's binding prints a page of "leaked" objects as the interpreter is taken down when
        # a traceback or a cache outlives it; so what must run at exit is run here, and the process
        # ended without that.
        sys.stdout.flush()
        sys.stderr.flush()
        atexit._run_exitfuncs()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    main()
