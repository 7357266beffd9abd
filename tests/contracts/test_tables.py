import pytest

from contracts import columns
from contracts.errors import NotFoundError
from contracts.events import EVENT_CODES, EVENT_TYPES, PURCHASE
from contracts.tables import INTAKE_TABLES, TABLES, table_spec


@pytest.mark.parametrize("name", sorted(TABLES))
def test_every_named_column_is_in_the_schema(name: str) -> None:
    spec = table_spec(name)
    named = {*spec.key, *spec.required, spec.time, *spec.user_columns, *spec.session_columns}
    assert named <= set(spec.schema.names)
    assert set(spec.schema.names) <= {v for k, v in vars(columns).items() if k.isupper()}


def test_intake_tables_exist_and_an_unknown_one_is_named() -> None:
    assert set(INTAKE_TABLES) <= set(TABLES)
    with pytest.raises(NotFoundError, match="unknown table 'orders'; known:"):
        table_spec("orders")


def test_event_codes_are_positions() -> None:
    assert [EVENT_CODES[name] for name in EVENT_TYPES] == list(range(len(EVENT_TYPES)))
    assert EVENT_TYPES[PURCHASE] == "purchase"
