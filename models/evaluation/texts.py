"""What was said of each item at a moment of the past: a text that was written later may tell what
sold.
"""

from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from contracts import columns as c
from contracts.tables import TIMESTAMP
from models.base import Catalogue
from models.columns import encoded
from models.data import ItemIndex


def described_at(items: pa.Table, moment: datetime) -> pa.Table:
    """Return the rows that `catalogue_from_arrow` is to choose from as of `moment`: those of a
    `valid_from` strictly before it, and each item's first.

    So an item that was first described later has its first row: it is no answer before it came, and
    a shop that brings its catalogue once has texts at all. Without `valid_from`, all rows.
    """
    if c.VALID_FROM not in items.column_names:
        return items
    always = np.iinfo(np.int64).min
    stamps = pc.fill_null(pc.cast(items[c.VALID_FROM], TIMESTAMP).cast(pa.int64()), always)
    stamps = stamps.to_numpy()
    ids, places = encoded(items[c.ITEM_ID])
    first = np.full(len(ids) + 1, np.iinfo(np.int64).max)  # the last one is of null ids
    np.minimum.at(first, places, stamps)
    known = stamps < pa.scalar(moment, TIMESTAMP).value
    return items.filter(pa.array(known | (stamps == first[places])))


def texts_differ(catalogue: Catalogue, said: Catalogue) -> bool:
    """Say whether a catalogue describes an item of `said` in other words, or at another price."""
    places = ItemIndex.of(catalogue).lookup(said.item_ids)
    mine = catalogue.take(places)
    fields = ("item_ids", "titles", "descriptions", "categories", "brands", "tags")
    same = all(getattr(mine, name) == getattr(said, name) for name in fields)
    return not same or mine.prices.tobytes() != said.prices.tobytes()
