import pytest

from benchmarks.live_service import LiveService
from benchmarks.prove_schemathesis import run_cases

pytestmark = pytest.mark.slow


def test_every_post_of_the_spec_answers_whatever_comes(live: LiveService) -> None:
    traces = live.log.read_text().count("Traceback")
    outcome = run_cases(live, cases=12, spoiled=40, seed=1)
    assert not outcome.faults
    assert live.log.read_text().count("Traceback") == traces
    assert {"/v1/recommend", "/v1/events", "/v1/search"} <= set(outcome.statuses)
    for statuses in outcome.statuses.values():
        assert statuses[200] and statuses[422]
