"""The "Online Retail" export (UCI, CC BY 4.0): order lines of a wholesaler, into purchases and
returns.

Chen, Sain, Guo: Data mining for the online retail industry (2012). https://doi.org/10.24432/C5BW33
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.dataset as ds

from contracts import columns as c
from contracts.pseudonyms import Pseudonymiser
from contracts.tables import INTERACTIONS, ITEMS, USERS
from lake.conversion import Adapter, Converted, broken_rows, convert_cells, empty_rows
from lake.readers import RawChunk
from lake.sql import ask

NAME: Final = "online_retail"
HEADER: Final = (
    "InvoiceNo",
    "StockCode",
    "Description",
    "Quantity",
    "InvoiceDate",
    "UnitPrice",
    "CustomerID",
    "Country",
)
NOT_A_PRODUCT: Final = "item is a product"
# Five digits and letters, or the DCGS range; the rest is postage, fees, vouchers, samples,
# corrections.
PRODUCT: Final = "[0-9]{5}[A-Z]*|DCGS[0-9A-Z]+"
EXTRA: Final = ("line_description", "line_country")
# What warehouse staff write where a title belongs, in capitals as titles are.
NOTES: Final = (
    "(.*[?].*|DAMAGE.*|CHECK.*|FOUND|AMAZON.*|MIA|FBA|LOST.*|WET.*|MOULDY.*|BROKEN.*|MISSING.*|EBAY|"
    "WRONG.*|THROWN.*|DOTCOM|TEST|SAMPLE|ADJUST.*|COUNTED|CRUSHED|SMASHED|RETURNED|[0-9 ]+|.{0,2})"
)


@dataclass(frozen=True)
class OnlineRetail(Adapter):
    """Order lines: an invoice is a session; one that starts with C is a return; no customer is
    anonymous.
    """

    name: str = NAME
    table: str = INTERACTIONS.name
    derives: bool = True
    stitches: bool = False

    def convert(self, chunk: RawChunk, pseudonymiser: Pseudonymiser) -> Converted:
        """Map a chunk; stock codes of no product are refused here, the gate judges the rest."""
        if not len(chunk.lines):
            return Converted(empty_rows(INTERACTIONS, EXTRA), broken_rows(chunk.broken))
        cells = _named(chunk.cells)
        users = pseudonymiser.many(cells[c.USER_ID], "user")
        sessions = pseudonymiser.many(cells[c.SESSION_ID], "session")
        cells = _replace(cells, {c.USER_ID: users, c.SESSION_ID: sessions})
        return convert_cells(
            INTERACTIONS,
            cells,
            chunk,
            shown=_replace(chunk.cells, {"CustomerID": users, "InvoiceNo": sessions}),
            rules={NOT_A_PRODUCT: f"NOT regexp_full_match({c.ITEM_ID}, '{PRODUCT}')"},
            extra=EXTRA,
        )

    def derive(self, paths: Sequence[Path], spill: Path) -> dict[str, pa.Table]:
        """Return items and users, see below."""
        return derive(paths, spill)


def derive(paths: Sequence[Path], spill: Path) -> dict[str, pa.Table]:
    """Return `items` and `users` rows that staged order lines tell of, one per thing, file and day.

    An item's title is the most frequent description of the day that is a title, its price the
    median of the day; both are valid from its first line of that day, so nothing is known before it
    was seen. Only lines with a positive price count: the others are stock corrections.
    What does not fit into memory goes below `spill`.
    """
    lines = {"lines": ds.dataset([str(path) for path in paths], format="parquet")}
    items, users = (ask(query, lines, spill=spill) for query in (_ITEMS, _USERS))
    return {
        ITEMS.name: items.cast(_narrowed(ITEMS.schema, items)),
        USERS.name: users.cast(_narrowed(USERS.schema, users)),
    }


def _narrowed(schema: pa.Schema, table: pa.Table) -> pa.Schema:
    return pa.schema([schema.field(name) for name in table.column_names])


def _named(cells: pa.Table) -> pa.Table:
    """Return the cells under our names, as text, quantities of cancellations turned positive."""
    return ask(_CELLS, {"given": cells})


def _replace(cells: pa.Table, columns: dict[str, pa.Array]) -> pa.Table:
    for name, values in columns.items():
        cells = cells.set_column(cells.column_names.index(name), name, values)
    return cells


# The export is also about with American dates.
MOMENT: Final = (
    "CASE WHEN contains(InvoiceDate::VARCHAR, '/') "
    "THEN coalesce(try_strptime(trim(InvoiceDate::VARCHAR), '%m/%d/%Y %H:%M')::VARCHAR, "
    "InvoiceDate::VARCHAR) ELSE InvoiceDate::VARCHAR END"
)
_CELLS: Final = f"""
    SELECT regexp_replace(trim(CustomerID::VARCHAR), '\\.0$', '') AS {c.USER_ID},
           invoice AS {c.SESSION_ID},
           upper(trim(StockCode::VARCHAR)) AS {c.ITEM_ID},
           CASE WHEN invoice LIKE 'C%' THEN 'return' ELSE 'purchase' END AS {c.EVENT_TYPE},
           {MOMENT} AS {c.EVENT_TIMESTAMP},
           CASE WHEN invoice NOT LIKE 'C%' THEN amount
                WHEN amount LIKE '-%' THEN amount[2:]
                ELSE '-' || amount END AS {c.QUANTITY},
           UnitPrice::VARCHAR AS {c.PRICE},
           '{NAME}' AS {c.SOURCE},
           Description::VARCHAR AS {EXTRA[0]},
           Country::VARCHAR AS {EXTRA[1]}
    FROM (SELECT *, upper(trim(InvoiceNo::VARCHAR)) AS invoice,
                 nullif(trim(Quantity::VARCHAR), '') AS amount
          FROM given)
"""

# A title in capitals goes before any other text; among equals the more frequent, then the alphabet.
_ITEMS: Final = f"""
    WITH sold AS (
        SELECT file_no, {c.ITEM_ID}, {c.EVENT_TIMESTAMP}, {c.PRICE},
               regexp_replace({EXTRA[0]}, '\\s+', ' ', 'g') AS said,
               CAST({c.EVENT_TIMESTAMP} AS DATE) AS day
        FROM lines WHERE {c.PRICE} > 0 AND {c.QUANTITY} > 0
    ), described AS (
        SELECT file_no, {c.ITEM_ID}, day, said, count(*) AS n,
               length(regexp_replace(said, '[^A-Z]', '', 'g'))
                 > length(regexp_replace(said, '[^a-z]', '', 'g')) AS capitals
        FROM sold
        WHERE regexp_matches(said, '[A-Za-z]') AND NOT regexp_full_match(upper(said), '{NOTES}')
          AND regexp_matches(said, '^[^a-z]')
        GROUP BY ALL
    ), titled AS (
        SELECT file_no, {c.ITEM_ID}, day, first(said ORDER BY capitals DESC, n DESC, said) AS title
        FROM described GROUP BY ALL
    )
    SELECT {c.ITEM_ID}, min({c.EVENT_TIMESTAMP}) AS {c.VALID_FROM}, any_value(title) AS {c.TITLE},
           median({c.PRICE}) AS {c.PRICE}
    FROM sold LEFT JOIN titled USING (file_no, {c.ITEM_ID}, day)
    GROUP BY file_no, {c.ITEM_ID}, day
    ORDER BY {c.VALID_FROM}, {c.ITEM_ID}
"""

_USERS: Final = f"""
    SELECT {c.USER_ID}, min({c.EVENT_TIMESTAMP}) AS {c.VALID_FROM},
           arg_min({EXTRA[1]}, {c.LINE}) AS {c.COUNTRY}
    FROM lines WHERE {c.USER_ID} IS NOT NULL AND {c.EVENT_TIMESTAMP} IS NOT NULL
    GROUP BY file_no, {c.USER_ID}, CAST({c.EVENT_TIMESTAMP} AS DATE)
    ORDER BY {c.VALID_FROM}, {c.USER_ID}
"""
