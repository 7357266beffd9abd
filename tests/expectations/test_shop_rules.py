"""A shop's rules are read strictly, and each kind quarantines, counts or blocks."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contracts import columns as c
from contracts.errors import SettingsError
from contracts.settings import load_settings
from contracts.tables import table_spec
from contracts.validation_settings import ShopRule, ValidationSettings
from expectations.gate import ExpectationGate
from expectations.history import HistoryJudge
from expectations.shop_rules import rows_rules

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def items(*changes: dict[str, Any]) -> pa.Table:
    schema = table_spec("items").schema
    good = {c.ITEM_ID: "mug", c.VALID_FROM: NOW, c.TITLE: "Red mug", c.PRICE: 4.5, c.BRAND: "Acme"}
    rows = [{**good, **change} for change in changes]
    columns = [pa.array([row.get(field.name) for row in rows], field.type) for field in schema]
    table = pa.table(columns, schema=schema)
    return table.append_column(c.ROW_ID, pa.array(range(len(rows)), pa.int64()))


def rule(expectation: str, **options: Any) -> ShopRule:
    options = {"table": "items", "rule": "the shop's rule", **options}
    return ShopRule.model_validate({"expectation": expectation, **options})


BROKEN = [
    (rule("not_null", column="brand"), {c.BRAND: None}),
    (rule("between", column="price", min=1, max=9), {c.PRICE: 9.5}),
    (
        rule("between", column="valid_from", min=datetime(2026, 2, 1)),
        {c.VALID_FROM: datetime(2026, 1, 1, tzinfo=UTC)},
    ),
    (rule("in_set", column="brand", values=("Acme", "Zeta")), {c.BRAND: "acme"}),
    (rule("matches", column="title", pattern="^[A-Z]"), {c.TITLE: "red mug"}),
    (
        rule("between", column="price", max=3, when={"column": "brand", "equals": "Zeta"}),
        {c.BRAND: "Zeta"},
    ),
]


@pytest.mark.parametrize(("own", "change"), BROKEN)
def test_a_rule_of_each_kind_finds_its_row_and_no_other(
    own: ShopRule, change: dict[str, Any]
) -> None:
    gate = ExpectationGate(now=NOW, extra=rows_rules([own]))
    split = gate("items", items({}, change, {}))
    assert split.bad[c.ROW_ID].to_pylist() == [1]
    assert split.rules.to_pylist() == ["the shop's rule"]


def test_keys_that_must_be_unique_together() -> None:
    own = rule("unique_together", columns=("title", "brand"))
    gate = ExpectationGate(now=NOW, extra=rows_rules([own]))
    changes = [{c.ITEM_ID: "a"}, {c.ITEM_ID: "b"}, {c.ITEM_ID: "c", c.BRAND: "Zeta"}]
    assert gate("items", items(*changes)).bad[c.ITEM_ID].to_pylist() == ["a", "b"]


def test_a_warning_lets_rows_pass_and_counts_them() -> None:
    own = rule("not_null", column="brand", severity="warn")
    gate = ExpectationGate(now=NOW, extra=rows_rules([own]))
    split = gate("items", items({c.BRAND: None}, {}))
    assert split.bad.num_rows == 0
    assert split.result["success"]
    entry = split.result["expectations"][-1]
    assert (entry["rule"], entry["severity"], entry["broken"]) == ("the shop's rule", "warn", 1)


@pytest.mark.parametrize(
    ("own", "broken"),
    [
        (rule("between", column="price", max=5, severity="block"), "2 rows"),
        (rule("unique_together", columns=("item_id",), severity="block"), "3 rows"),
    ],
)
def test_one_broken_row_blocks_the_whole_batch(tmp_path: Path, own: ShopRule, broken: str) -> None:
    gate = ExpectationGate(now=NOW, extra=rows_rules([own]))
    assert gate("items", items({c.PRICE: 6.0})).bad.num_rows == 0  # not the gate's business
    judge = HistoryJudge(lambda _: (), NOW, ValidationSettings(rules=(own,)), gate=gate)
    paths = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    fine = [{c.ITEM_ID: "a"}], [{c.ITEM_ID: "b"}]
    for path, changes in zip(paths, fine, strict=True):
        pq.write_table(items(*changes).drop_columns([c.ROW_ID]), path)
    assert not judge("items", "amalgam", paths).blocked
    pq.write_table(items({c.PRICE: 6.0}, {c.PRICE: 7.0}, {}).drop_columns([c.ROW_ID]), paths[1])
    verdict = judge("items", "amalgam", paths)
    assert verdict.blocked
    assert verdict.reasons == [f"the shop's rule: expected no row that breaks it, seen {broken}"]


def test_a_rule_that_raises_blocks_before_anything_lands(tmp_path: Path) -> None:
    # Text is compared with a number: the settings refuse such a rule, so it is put in by hand.
    own = rule("between", column="price", min=5).model_copy(update={"column": "title"})
    for severity in ("row", "block"):
        mine = own.model_copy(update={"severity": severity})
        gate = ExpectationGate(now=NOW, extra=rows_rules([mine]))
        settings = ValidationSettings().model_copy(update={"rules": (mine,)})
        judge = HistoryJudge(lambda _: (), NOW, settings, gate=gate)
        pq.write_table(items({}).drop_columns([c.ROW_ID]), tmp_path / "a.parquet")
        verdict = judge("items", "amalgam", [tmp_path / "a.parquet"])
        assert verdict.blocked
        assert "could not be evaluated" in verdict.reasons[0]


WRONG = [
    ('column = "brand"\nexpectation = "is_nice"', "expectation"),
    ('column = "colour"\nexpectation = "not_null"', "has no columns \\['colour'\\]"),
    ('table = "people"\ncolumn = "brand"\nexpectation = "not_null"', "no intake table 'people'"),
    ('expectation = "not_null"', "needs \\['column'\\]"),
    ('column = "price"\nexpectation = "between"', "needs min or max"),
    ('column = "price"\nexpectation = "between"\nmin = 3\nmax = 2', "min 3 lies above max 2"),
    ('column = "price"\nexpectation = "between"\nmin = 2026-01-01', "cannot be a value of 'price'"),
    ('column = "brand"\nexpectation = "in_set"\nvalues = [1]', "cannot be a value of 'brand'"),
    ('column = "brand"\nexpectation = "matches"\npattern = "("', "no regular expression"),
    ('column = "price"\nexpectation = "matches"\npattern = "a"', "needs a column of text"),
    ('column = "brand"\nexpectation = "not_null"\npattern = "a"', "has no use for \\['pattern'\\]"),
    ('column = "brand"\nexpectation = "not_null"\nwhen = {column = "x", equals = 1}', "'x'"),
    ('column = "brand"\nexpectation = "not_null"\nseverity = "stop"', "severity"),
    ('column = "brand"\nexpectation = "not_null"\nrule = "a; b"', "must not be empty or hold"),
    ('column = "brand"\nexpectation = "not_null"\nmostly = 0.9', "mostly"),
]


@pytest.mark.parametrize(("lines", "told"), WRONG)
def test_a_wrong_rule_is_refused_and_says_why(tmp_path: Path, lines: str, told: str) -> None:
    given = "\n".join(
        line
        for line in ('table = "items"', 'rule = "the shop\'s rule"')
        if line.split(" ")[0] not in [part.split(" ")[0] for part in lines.split("\n")]
    )
    config = tmp_path / "shop.toml"
    config.write_text(f"[[validation.rules]]\n{given}\n{lines}\n")
    with pytest.raises(SettingsError, match=told):
        load_settings(config, home=tmp_path)


def test_limits_and_names_are_strict(tmp_path: Path) -> None:
    config = tmp_path / "shop.toml"
    one = '[[validation.rules]]\ntable = "items"\nrule = "same"\n'
    one += 'column = "brand"\nexpectation = "not_null"\n'
    for text, told in (
        (one + one, "two rules of 'items' are called 'same'"),
        ("[validation.history]\nvolume_low = { warn = 0.5 }\n", "volume_low is a factor above 1"),
        ("[validation.history]\nnull_share = { warn = 0.5, block = 0.1 }\n", "lies inside"),
        ("[validation.history]\nweek = 3\n", "week"),
    ):
        config.write_text(text)
        with pytest.raises(SettingsError, match=told):
            load_settings(config, home=tmp_path)
    config.write_text(one)
    assert load_settings(config, home=tmp_path).validation.rules[0].severity == "row"
