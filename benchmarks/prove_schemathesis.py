"""Schemathesis over the merged spec: every POST in it, with thousands of cases made from its own
schemas, good ones and spoiled ones.

No answer is a 5xx; each has a status, a content type and a body as the spec says; a body that
breaks its schema is refused. Besides, each good body is sent once more with one thing spoiled that
no schema thinks of: control characters, lone surrogates, huge numbers and texts, deep nesting.
"""

import copy
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx

from benchmarks.live_service import OPERATOR_KEY, LiveService, live_service, make_home
from contracts.wire import ErrorResponse

CASES: Final = 500
"""Per POST and way of making cases."""
SPOILED: Final = 1000
"""Per POST."""
SEED: Final = 7
LONG: Final = "x" * 100_000
TEXTS: Final = (
    "\x00",
    "a\nb",
    "a\x1b[31mb",
    "a\u0085b",
    "a\u2028b",
    "a\x7fb",
    "\ud800",
    "a\udfffb",
    LONG,
    "",
    " ",
    "\u00a0",
    "../../etc/passwd",
    "'; DROP TABLE login; --",
    "${jndi:ldap://x}",
    "\u202e\u0301\U0001f600",
)
VALUES: Final[tuple[Any, ...]] = (
    None,
    True,
    0,
    -1,
    10**400,
    -(10**30),
    1e308,
    -0.0,
    1.5,
    "0001-01-01T00:00:00+14:00",
    "9999-12-31T23:59:59.999999-14:00",
    "1969-12-31T23:59:59Z",
    [],
    {},
    [[]],
    {"$ref": "#"},
)
LITERALS: Final = (b"NaN", b"Infinity", b"-Infinity", b"1e999", b"[" * 50_000, b'{"a":' * 20_000)
MARK: Final = "@spoiled@"


RAW: Final = (
    b"",
    b"null",
    b"[]",
    b'"text"',
    b"1",
    b"{",
    b"\xff\xfe{}",
    b"\xef\xbb\xbf{}",
    b"{}{}",
    b'{"k": 1, "k": 2}',
    b'{"a": "\n"}',
    b"<xml/>",
    b"a=1&b=2",
)
REFUSED: Final = frozenset(TEXTS[:9])
"""Texts that no field takes."""
ANSWERS: Final = frozenset({200, 400, 404, 409, 413, 422})

Leaf = tuple[str | int, ...]
"""Where a value stands in a body."""


@dataclass
class Outcome:
    """What came back: statuses by POST, and what was wrong.

    bodies   by POST: answered with 200, one for each field that was ever seen
    """

    statuses: dict[str, Counter[int]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    bodies: dict[str, dict[Leaf, tuple[Leaf, Any]]] = field(default_factory=dict)

    @property
    def cases(self) -> int:
        """How many requests were answered."""
        return sum(counter.total() for counter in self.statuses.values())


def prove() -> dict[str, Any]:
    """Run all cases against a small shop's service; ok without a fault."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        with live_service(make_home(Path(folder) / "home")) as service:
            outcome = run_cases(service, cases=CASES, spoiled=SPOILED, seed=SEED)
            traces = service.log.read_text().count("Traceback")
    for fault in outcome.faults:
        sys.stderr.write(f"{fault}\n")
    return {
        "ok": not outcome.faults and traces == 0,
        "cases": outcome.cases,
        "posts": {path: dict(sorted(found.items())) for path, found in outcome.statuses.items()},
        "traces_in_log": traces,
        "seed": SEED,
        "seconds": round(time.monotonic() - began, 1),
        "faults": [fault[:300] for fault in outcome.faults[:10]],
    }


def run_cases(service: LiveService, *, cases: int, spoiled: int, seed: int) -> Outcome:
    """Try every POST of the running service's spec.

    cases     made by Schemathesis, per POST and kind (good, spoiled by the schema's own terms)
    spoiled   good bodies with one value changed, per POST
    """
    outcome = Outcome()
    with service.client(OPERATOR_KEY) as client:
        spec = client.get("/docs.json").json()
        for path in sorted(path for path, methods in spec["paths"].items() if "post" in methods):
            # Keys have tests of their own: here a wrong one would only hide the body.
            spec["paths"][path]["post"].pop("security", None)
            outcome.statuses[path], outcome.bodies[path] = Counter(), {}
            for mode in ("positive", "negative"):
                _generated(client, spec, path, mode, cases, seed, outcome)
            for body in _spoiled_bodies(outcome.bodies[path], spoiled, seed):
                _send_spoiled(client, path, body, outcome)
    return outcome


def _generated(
    client: httpx.Client,
    spec: dict[str, Any],
    path: str,
    mode: str,
    cases: int,
    seed: int,
    outcome: Outcome,
) -> None:
    """Send cases that Schemathesis makes from the schema, `positive` or `negative` ones; the first
    fault is made as small as can be, and ends it.
    """
    import hypothesis
    import schemathesis
    from schemathesis.core.failures import FailureGroup

    operation = schemathesis.openapi.from_dict(spec)[path]["POST"]
    checks = _checks(mode)  # the last one asks for a refusal

    def send(case: Any) -> None:
        response = case.call(base_url=str(client.base_url), headers=dict(client.headers))
        outcome.statuses[path][response.status_code] += 1
        told = checks[:-1] if _part_refused(response) else checks
        try:
            case.validate_response(response, checks=told)
        except FailureGroup as group:
            raise AssertionError(str(group)) from None
        if response.status_code == 200:
            for leaf in _leaves(case.body):
                outcome.bodies[path].setdefault(_field(leaf), (leaf, case.body))

    strategy = operation.as_strategy(generation_mode=schemathesis.GenerationMode(mode))
    settings = hypothesis.settings(
        max_examples=cases,
        deadline=None,
        database=None,
        phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink],
        suppress_health_check=list(hypothesis.HealthCheck),
        print_blob=False,
    )
    try:
        settings(hypothesis.seed(seed)(hypothesis.given(strategy)(send)))()
    except AssertionError as error:
        outcome.faults.append(f"{path} {mode}: {error}")


def _checks(mode: str) -> list[Any]:
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi import checks

    asked = [
        not_a_server_error,
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_schema_conformance,
    ]
    return [*asked, *([checks.negative_data_rejection] if mode == "negative" else asked[:1])]


def _part_refused(response: Any) -> bool:
    """Say whether a batch was answered, and something in it refused."""
    return response.status_code == 200 and any(
        result.get("error") for result in response.json().get("results", ())
    )


def _spoiled_bodies(
    bodies: dict[Leaf, tuple[Leaf, Any]], limit: int, seed: int
) -> Iterator[tuple[bytes, bool]]:
    """Make bodies with one value changed, and say whether the service must refuse them."""
    made = [
        (leaf, body, value)
        for leaf, body in bodies.values()
        for value in (*TEXTS, *VALUES, *LITERALS)
    ]
    random.Random(seed).shuffle(made)
    for leaf, body, value in made[:limit]:
        if isinstance(value, bytes):
            text = json.dumps(_with(body, leaf, MARK)).encode()
            yield text.replace(json.dumps(MARK).encode(), value), True
        else:
            refused = isinstance(value, str) and value in REFUSED
            yield json.dumps(_with(body, leaf, value)).encode(), refused
    for raw in RAW:
        yield raw, False


def _send_spoiled(
    client: httpx.Client, path: str, body: tuple[bytes, bool], outcome: Outcome
) -> None:
    text, refused = body
    response = client.post(path, content=text)
    status = response.status_code
    outcome.statuses[path][status] += 1
    fault = ""
    if status not in ANSWERS:
        fault = f"answered {status}"
    elif status == 200 and refused and not _part_refused(response):
        fault = "was taken"
    elif status != 200:
        try:
            ErrorResponse.model_validate(response.json())
        except ValueError as error:
            fault = f"has not the one shape of errors: {error}"
        if "Traceback" in response.text or ".py" in response.text:
            fault = "shows a stack trace"
    if fault:
        outcome.faults.append(f"{path}: {text[:300]!r} {fault}: {response.text[:300]}")


def _leaves(value: Any, place: Leaf = ()) -> Iterator[Leaf]:
    """Return where the values of a body stand, an empty list or object among them."""
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _leaves(inner, (*place, name))
    elif isinstance(value, list) and value:
        for number, inner in enumerate(value):
            yield from _leaves(inner, (*place, number))
    elif place:
        yield place


def _field(leaf: Leaf) -> Leaf:
    return tuple(part for part in leaf if isinstance(part, str))


def _with(body: Any, leaf: Leaf, value: Any) -> Any:
    changed = copy.deepcopy(body)
    inner = changed
    for part in leaf[:-1]:
        inner = inner[part]
    inner[leaf[-1]] = value
    return changed
