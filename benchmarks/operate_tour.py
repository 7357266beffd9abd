"""The walk of docs/operate.md in a real browser: schedule, report, promotion, rollback.

    amalgam demo && amalgam up --demo          # in one terminal
    python -m benchmarks.operate_tour --out docs/images

clicks through Prefect's and Evidently's pages of that installation, writes the guide's pictures,
and prints as JSON how long the rollback took, from the click until every worker answered from it.
It moves the champion to the newest release and back; the schedule that it adds it takes away.
"""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import httpx
from playwright.sync_api import Locator, Page, ViewportSize, sync_playwright

from contracts.settings import Settings
from flows.environment import api_url
from flows.settings_files import command_settings
from services.registry import Releases

WAIT_SECONDS: Final = 300.0
POLL_SECONDS: Final = 0.1
VIEW: Final[ViewportSize] = {"width": 1280, "height": 800}
SLUG: Final = "every-minute"


class Tour:
    """A browser on the pages of a running installation."""

    def __init__(self, settings: Settings, page: Page, out: Path) -> None:
        self.page, self.out = page, out
        self.releases = Releases(settings.registry)
        self.api = httpx.Client(base_url=api_url(settings), timeout=20)
        self.prefect = api_url(settings).removesuffix("/api")
        self.evidently = f"http://127.0.0.1:{settings.operations.evidently_port}"

    def take(self, name: str, shown: Locator) -> None:
        """Write a picture of the page once `shown` is there and the page stands still."""
        shown.wait_for()
        self.page.wait_for_load_state("networkidle")
        self.page.wait_for_timeout(1_500)
        self.page.screenshot(path=self.out / f"operate-{name}.png")

    def deployment(self, name: str) -> dict[str, Any]:
        """Return a deployment as the server has it."""
        answer = self.api.get(f"/deployments/name/{name}/{name}").raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    def open(self, path: str, base: str | None = None) -> None:
        """Go to a page."""
        self.page.goto(f"{base or self.prefect}{path}")

    def completed(self, run: str) -> None:
        """Wait for a run to complete."""

        def ended() -> str | None:
            state = self.api.get(f"/flow_runs/{run}").raise_for_status().json()["state"]
            if state["type"] in {"FAILED", "CRASHED", "CANCELLED"}:
                raise RuntimeError(f"flow run {run} did not complete: {state}")
            return run if state["type"] == "COMPLETED" else None

        awaited(ended, f"the end of flow run {run}")

    def runs(self, flow: str) -> list[dict[str, Any]]:
        """Return the runs of a flow, the newest first."""
        told = {"flows": {"name": {"any_": [flow]}}, "sort": "EXPECTED_START_TIME_DESC"}
        found: list[dict[str, Any]] = self.api.post("/flow_runs/filter", json=told).json()
        return found

    def known(self, flow: str) -> set[str]:
        """Return the ids of the runs that a flow has had."""
        return {run["id"] for run in self.runs(flow) if run["state_type"] != "SCHEDULED"}

    def field(self, label: str) -> Locator:
        """Return the input below a label: the UI does not join the two."""
        labelled = self.page.locator(".p-label").filter(
            has=self.page.get_by_text(label, exact=True)
        )
        return labelled.locator("input, textarea").first

    def submit(self) -> str:
        """Press the button of a form that starts a run, again while the server's database is busy
        (503); return the run's id.
        """
        while True:
            with self.page.expect_response(lambda answer: "create_flow_run" in answer.url) as told:
                self.page.get_by_role("button", name="Submit").click()
            if told.value.status != 503:
                return str(told.value.json()["id"])

    def artifact(self, key: str, run: str) -> None:
        """Open an artifact of a run."""
        only = {"artifacts": {"key": {"any_": [key]}, "flow_run_id": {"any_": [run]}}}
        found = self.api.post("/artifacts/filter", json=only).json()
        self.open(f"/artifacts/artifact/{found[0]['id']}")


def awaited(found: Callable[[], str | None], what: str) -> str:
    """Ask until there is an answer.

    Raises:
        RuntimeError: there was none in WAIT_SECONDS.
    """
    deadline = time.monotonic() + WAIT_SECONDS
    while (value := found()) is None:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what} did not come in {WAIT_SECONDS:.0f} s")
        time.sleep(POLL_SECONDS)
    return value


def schedule(tour: Tour) -> str:
    """Add a schedule to `monitor` by the form; return the run that it made."""
    page, monitor = tour.page, tour.deployment("monitor")
    tour.open("/deployments")
    tour.take("deployments", page.get_by_text("rollback").first)
    known = tour.known("monitor")
    tour.open(f"/deployments/deployment/{monitor['id']}")
    page.get_by_role("button", name="Schedule", exact=True).click()
    tour.field("Slug (Optional)").fill(SLUG)
    tour.field("Value").fill("1")
    tour.take("schedule", page.get_by_role("button", name="Save"))
    page.get_by_role("button", name="Save").click()

    def began() -> str | None:
        new = [run for run in tour.runs("monitor") if run["id"] not in known]
        return next((run["id"] for run in new if run["state_type"] != "SCHEDULED"), None)

    run = awaited(began, "a run of the added schedule")
    added = [plan for plan in tour.deployment("monitor")["schedules"] if plan["slug"] == SLUG]
    for plan in added:
        tour.api.delete(f"/deployments/{monitor['id']}/schedules/{plan['id']}").raise_for_status()
    tour.completed(run)
    return run


def reports(tour: Tour, run: str) -> None:
    """Look at a run of `monitor`, at what it left, and at the report in Evidently."""
    page = tour.page
    tour.open(f"/runs/flow-run/{run}")
    tour.take("run", page.get_by_text("measure_drift").first)
    tour.artifact("drift", run)
    tour.take("drift", page.get_by_text("for release").first)
    project = httpx.get(f"{tour.evidently}/api/projects").json()[0]["id"]
    tour.open(f"/projects/{project}/reports", tour.evidently)
    newest = page.locator(f"a[href^='/projects/{project}/reports/']").first
    newest.wait_for()
    tour.open(str(newest.get_attribute("href")), tour.evidently)
    column = page.get_by_text("Drift Score").first
    column.wait_for()
    page.get_by_text("Data Drift Summary").first.evaluate("at => at.scrollIntoView()")
    tour.take("evidently", column)


def promote(tour: Tour) -> None:
    """Make the newest release the champion by the form of `promote`, and look at all releases."""
    page, newest = tour.page, tour.releases.list()[-1].version
    tour.open(f"/deployments/deployment/{tour.deployment('promote')['id']}/run")
    tour.field("version").fill(newest)
    tour.field("operator (Optional)").fill("Ann")
    run = tour.submit()
    tour.completed(run)
    tour.artifact("releases", run)
    tour.take("releases", page.get_by_alt_text("NDCG@10 and lift of each release"))


def rollback(tour: Tour) -> float:
    """Roll back by the form; return the seconds until every worker answers from the release."""
    page, target = tour.page, tour.releases.champions()[-2]
    tour.open(f"/deployments/deployment/{tour.deployment('rollback')['id']}/run")
    tour.field("reason (Optional)").fill("odd lists since this morning")
    tour.field("operator (Optional)").fill("Ann")
    tour.take("rollback", page.get_by_role("button", name="Submit"))
    clicked = time.monotonic()
    run = tour.submit()

    def served() -> str | None:
        there = {report.release for report in tour.releases.workers.live()}
        return target if there == {target} else None

    awaited(served, f"release {target} in every worker")
    seconds = time.monotonic() - clicked
    tour.completed(run)
    tour.open(f"/runs/flow-run/{run}")
    tour.take("rolled-back", page.get_by_text("return_champion").first)
    return seconds


def main() -> None:
    """Walk, and print the seconds of the rollback."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the pictures")
    out: Path = parser.parse_args().out
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    settings = command_settings(demo=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport=VIEW, color_scheme="dark")
        page.set_default_timeout(30_000)
        tour = Tour(settings, page, out)
        reports(tour, schedule(tour))
        promote(tour)
        seconds = rollback(tour)
        browser.close()
    told = {"rollback_seconds": round(seconds, 1), "workers": len(tour.releases.workers.live())}
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
