"""The validation of an ingest: the gate of rows, the judge of batches, and what is blocked."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, time
from typing import TYPE_CHECKING, Any

from contracts import columns as c
from contracts.errors import RefusedError
from contracts.settings import Settings

if TYPE_CHECKING:
    from contracts.validation import BatchJudge, Validator
    from lake.store import Lake


def row_gate(settings: Settings, lake: "Lake", now: datetime) -> "Validator":
    """Return the gate, which looks up at each batch the items that the lake has by then."""
    from expectations.gate import ExpectationGate
    from expectations.shop_rules import rows_rules

    return ExpectationGate(
        now=now,
        known_items=lambda: lake.read("items", columns=[c.ITEM_ID])[c.ITEM_ID],
        opened=opened(settings),
        extra=rows_rules(settings.validation.rules),
    )


def batch_judge(settings: Settings, lake: "Lake", now: datetime, gate: "Validator") -> "BatchJudge":
    """Return the judge that holds a batch against the shop's past."""
    from expectations.history import HistoryJudge

    return HistoryJudge(lake.files, now, settings.validation, opened=opened(settings), gate=gate)


def opened(settings: Settings) -> datetime:
    """Return the first moment of the shop."""
    return datetime.combine(settings.shop.opened, time(), tzinfo=UTC)


def blocked_event(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Return resource and payload of the event that tells of a blocked batch."""
    broken = [
        {name: entry[name] for name in ("rule", "expected", "seen")}
        for entry in batch["result"]["expectations"]
        if not entry["success"] and entry["severity"] == "block"
    ]
    return {
        "resource": {"prefect.resource.id": f"amalgam.table.{batch['table']}"},
        "payload": {
            "table": batch["table"],
            "source": batch["source"],
            "files": list(batch["files"]),
            "rules": broken,
            **broken[0],
        },
    }


def all_let_in(outcome: dict[str, Any]) -> dict[str, Any]:
    """Return the outcome of an ingest.

    Raises:
        RefusedError: a batch was blocked; everything else is in by now.
    """
    blocked = outcome.get("blocked") or []
    if not blocked:
        return outcome
    told = [
        f"{batch['table']} from {batch['source']} ({_names(batch['files'])}): "
        + "; ".join(batch["reasons"])
        for batch in blocked
    ]
    raise RefusedError(
        f"{len(blocked)} of the batches blocked, nothing of them landed: {' | '.join(told)}. "
        f"All others are in. See {outcome.get('page', 'the validation page')}; mend the files, or, "
        "when they are right: amalgam ingest FILES --accept-blocked REASON"
    )


def warnings_of(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what broken rules let pass, a sentence a rule: those of severity `warn`, and those
    that would have blocked a batch had an operator not let it in.
    """
    return [
        f"{result['table']}: {entry['rule']}: {_found(entry)}"
        for result in results
        for entry in result["expectations"]
        if not entry["success"]
        and (
            entry["severity"] == "warn"
            or (entry["severity"] == "block" and "accepted_because" in result)
        )
    ]


def _found(entry: Mapping[str, Any]) -> str:
    if "seen" in entry:
        return f"expected {entry['expected']}, seen {entry['seen']}"
    return f"{entry['broken']:,} rows break it"


def _names(files: list[str]) -> str:
    return ", ".join(files[:3]) + (f" and {len(files) - 3} more" if len(files) > 3 else "")
