"""Helpers of the lake's tests: a plain validator, small files, one call to ingest."""

import gzip
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from contracts import columns as c
from contracts.pseudonyms import Pseudonymiser
from contracts.validation import ValidatedBatch
from lake.intake import IntakeReport, ingest
from lake.store import Lake

NOW = datetime(2024, 6, 1, tzinfo=UTC)
PEOPLE = Pseudonymiser([b"a key for tests only, 32 letters"])
HEADER = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country"


def validate(table: str, rows: pa.Table) -> ValidatedBatch:
    """Interactions need a positive quantity, if any, and purchases a positive price."""
    bad = pa.array([False] * len(rows))
    if table == "interactions":
        low = pc.fill_null(pc.less_equal(rows[c.QUANTITY], 0), False)
        cheap = pc.fill_null(pc.less_equal(rows[c.PRICE], 0), False)
        bad = pc.or_(low, pc.and_(cheap, pc.equal(rows[c.EVENT_TYPE], "purchase")))
        low_bad = low.filter(bad)
        rules = pc.if_else(low_bad, "quantity > 0", "price > 0")
    else:
        rules = pa.array([], pa.string())
    rules = rules.combine_chunks() if isinstance(rules, pa.ChunkedArray) else rules
    result = {"table": table, "rows": len(rows)}
    return ValidatedBatch(rows.filter(pc.invert(bad)), rows.filter(bad), rules, result)


def bring(
    home: Path, paths: Sequence[Path], *, chunk_rows: int = 1000, **options: Any
) -> tuple[IntakeReport, Lake]:
    """Ingest into home/lake; the report must add up."""
    lake = Lake(home / "lake")
    options.setdefault("validate", validate)
    report = ingest(
        paths,
        lake,
        pseudonymiser=PEOPLE,
        now=NOW,
        chunk_rows=chunk_rows,
        staging=home / "staging",
        **options,
    )
    assert report.rows_in == report.accepted + report.quarantined + report.duplicates
    assert not list((home / "staging").iterdir())
    return report, lake


def write(path: Path, text: str) -> Path:
    """Write text, gzipped if the name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = text.encode()
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return path


def views(first: int, last: int) -> str:
    """Return a canonical CSV of views, one a minute, by number."""
    lines = [
        f"u{n % 3},i{n % 5},view,2024-01-{1 + n // 1000:02d}T{n // 60 % 24:02d}:{n % 60:02d}:00Z"
        for n in range(first, last)
    ]
    return "\n".join(["user_id,item_id,event_type,event_timestamp", *lines]) + "\n"
