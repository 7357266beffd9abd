import pyarrow as pa
import pytest

from contracts.errors import SettingsError
from contracts.pseudonyms import DEMO_KEY, Pseudonymiser

OLD, NEW = b"k" * 16, b"n" * 16


def test_many_equals_one_and_keeps_nulls() -> None:
    hidden = Pseudonymiser([OLD])
    column = pa.chunked_array([["7", None], ["8", " ", "7 "]])
    assert hidden.many(column, "user").to_pylist() == [
        hidden.one("7", "user"),
        None,
        hidden.one("8", "user"),
        None,
        hidden.one("7", "user"),
    ]


def test_kinds_have_separate_spaces_and_keys_matter() -> None:
    assert Pseudonymiser([OLD]).one("7", "user") != Pseudonymiser([OLD]).one("7", "session")
    assert Pseudonymiser([OLD]).one("7", "user") != Pseudonymiser([NEW]).one("7", "user")


def test_keys_chain_so_that_a_pseudonym_can_be_rekeyed_without_the_raw_id() -> None:
    import hashlib
    import hmac

    before = Pseudonymiser([OLD]).one("7", "user")
    rekeyed = hmac.new(NEW, before.encode(), hashlib.sha256).hexdigest()[:32]
    assert Pseudonymiser([OLD, NEW]).one("7", "user") == rekeyed


def test_a_missing_or_short_key_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AMALGAM_ID_KEY", raising=False)
    with pytest.raises(SettingsError, match="AMALGAM_ID_KEY is not set"):
        Pseudonymiser.from_environment()
    with pytest.raises(SettingsError, match="at least 16"):
        Pseudonymiser([b"short"])
    demo = Pseudonymiser.from_environment(demo=True)
    assert demo.one("7", "user") == Pseudonymiser([DEMO_KEY.encode()]).one("7", "user")


def test_a_column_is_rekeyed_from_older_keys_of_the_chain() -> None:
    old, both = Pseudonymiser([OLD]), Pseudonymiser([OLD, NEW])
    column = pa.chunked_array([[old.one("7", "user"), None], [old.one("v", "session")]])
    expected = [both.one("7", "user"), None, both.one("v", "session")]
    assert both.rekey(column, old).to_pylist() == expected
    assert both.before(old.fingerprint) is not None and both.before("0" * 32) is None
    assert old.before(old.fingerprint) is None  # all its keys are no older keys


def test_fingerprint_and_token_tell_nothing_but_equality() -> None:
    old, both = Pseudonymiser([OLD]), Pseudonymiser([OLD, NEW])
    assert old.fingerprint == Pseudonymiser([OLD]).fingerprint != both.fingerprint
    ann = old.one("Ann", "user")
    assert old.token(ann) == old.token(ann) != both.token(ann)
    assert ann not in old.token(ann) and OLD.decode() not in old.fingerprint
