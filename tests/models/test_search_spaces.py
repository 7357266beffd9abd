"""The spaces of `amalgam tune`: every key a real option, every model covered."""

from dataclasses import fields, replace

import pytest

from contracts.errors import BadInputError
from contracts.events import EVENT_TYPES
from models.config import load_config
from models.ranking.config import RecipeConfig
from models.registry import RETRIEVERS, make_retriever
from models.search_spaces import (
    ANCHOR,
    ENDED_BY_LOSS,
    EVENT_WEIGHTS,
    RANKER,
    SPACES,
    Choice,
    Range,
    Real,
    Value,
    Whole,
    check_model,
    present_params,
    rounded,
    space_around,
    with_params,
)

OF_RETRIEVERS = sorted(set(SPACES) - {RANKER, EVENT_WEIGHTS})


def ends(within: Range) -> tuple[Value, Value]:
    if isinstance(within, Choice):
        return within.values[0], within.values[-1]
    return within.low, within.high


def test_every_retriever_has_a_space() -> None:
    assert set(OF_RETRIEVERS) == set(RETRIEVERS)
    assert ENDED_BY_LOSS <= set(OF_RETRIEVERS)
    assert set(SPACES[EVENT_WEIGHTS]) | {ANCHOR} == set(EVENT_TYPES)


@pytest.mark.parametrize("model", OF_RETRIEVERS)
def test_both_ends_of_every_range_are_options_that_the_model_takes(model: str) -> None:
    for place in (0, 1):
        params = {key: ends(within)[place] for key, within in SPACES[model].items()}
        options = with_params({}, params)
        held = make_retriever(model, options).config
        for key, value in present_params(model, options, RecipeConfig()).items():
            assert value == params[key], key
        assert held != make_retriever(model, {}).config


def test_the_ranker_and_the_weights_are_of_the_recipe() -> None:
    for place in (0, 1):
        params = {key: ends(within)[place] for key, within in SPACES[RANKER].items()}
        config = load_config(RecipeConfig, params, where="training")
        assert present_params(RANKER, {}, config) == params
    assert set(SPACES[RANKER]) <= {field.name for field in fields(RecipeConfig)}
    config = replace(RecipeConfig(), event_weights={"purchase": 4.0, "view": 0.5})
    present = present_params(EVENT_WEIGHTS, {}, config)
    assert present["view"] == 0.5 and present["cart"] == 0 and ANCHOR not in present


def test_the_present_value_is_always_within() -> None:
    options = {"shrink": 999.0, "recency": {"half_life_days": 2.5}}
    present = present_params("item_knn", options, RecipeConfig())
    space = space_around("item_knn", present)
    assert space["shrink"] == Real(0.5, 999.0, log=True)
    assert space["recency.half_life_days"] == Real(2.5, 720, log=True)
    assert space["n_neighbours"] == SPACES["item_knn"]["n_neighbours"]
    # Nothing at or below 0 has a logarithm.
    assert Real(0.1, 10, log=True).widened(0.0) == Real(0.0, 10, log=False)
    assert Whole(1, 30, log=True).widened(40) == Whole(1, 40, log=True)
    assert Choice((32, 64)).widened(48).values == (32, 64, 48)


def test_params_replace_options_and_leave_the_others() -> None:
    options = {"reg": 5.0, "max_items": 10, "recency": {"basket_decay": 0.5, "half_life_days": 9.0}}
    changed = with_params(options, {"reg": 7.0, "recency.basket_decay": 0.9})
    assert changed == {
        "reg": 7.0,
        "max_items": 10,
        "recency": {"basket_decay": 0.9, "half_life_days": 9.0},
    }
    assert options["recency"] == {"basket_decay": 0.5, "half_life_days": 9.0}
    assert rounded({"reg": 123.456, "window": 12345, "kind": "a"}) == {
        "reg": 123.5,
        "window": 12345,
        "kind": "a",
    }


def test_an_unknown_model_is_named_with_those_that_are_known() -> None:
    with pytest.raises(BadInputError, match=r"unknown model 'als'; known: \['attributes'"):
        check_model("als")
