"""A shop's rules as a TOML file says them: what holds for every list, and what for a scenario.

[all]                       what holds everywhere, unless a scenario says otherwise
[scenarios.home]            a scenario: home, product, cart, email
[scenarios.gift_finder]     a preset of the shop's own, e.g. like = "email"
"""

import tomllib
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from contracts.errors import SettingsError
from contracts.wire_body import Name
from contracts.wire_filters import Boost, Names, Pin, Price

SCENARIOS: Final = ("home", "product", "cart", "email")
BuiltIn = Literal["home", "product", "cart", "email"]
_SHOWN: Final = 10


class _Table(BaseModel):
    """A table of the file: unknown keys are refused, and nothing is taken for another type."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Hidden(_Table):
    """Items that no list shows: those named, and all of these categories, brands or tags."""

    items: Annotated[list[Name], Field(max_length=10_000)] = []
    categories: Names = []
    """Category paths or beginnings of them: `home > kitchen`."""
    brands: Names = []
    tags: Names = []


class PromotedSlot(_Table):
    """Places of a list that promoted items take in turn."""

    positions: Annotated[
        list[Annotated[int, Field(ge=1, le=200)]], Field(min_length=1, max_length=20)
    ]
    """1 is first."""
    items: Annotated[list[Name], Field(min_length=1, max_length=100)]
    rotate_hours: Annotated[float, Field(gt=0, le=8760)] = 24.0
    """Hours after which the next items take the places."""


class ScenarioRules(_Table):
    """What one scenario asks of a list; what is left out is inherited."""

    like: BuiltIn | None = None
    """For a preset of the shop's own: the scenario that it is like; default home."""
    diversity: Annotated[float, Field(ge=0, le=1)] | None = None
    """0: by score alone; 1: as different as can be."""
    variants: Literal["any", "apart", "one"] | None = None
    """Items that differ in colour or size only: `any`, never side by side, or `one` a list."""
    exclude_bought: bool | None = None
    """Leave out what the shopper bought, unless it is bought again by nature."""
    repeat_rate: Annotated[float, Field(ge=0, le=1)] | None = None
    """Share of an item's buyers who bought it again from which it is bought again by nature."""
    max_per_category: Annotated[int, Field(ge=1, le=200)] | None = None
    category_level: Annotated[int, Field(ge=0, le=10)] | None = None
    """Level of the path that `max_per_category` counts: 1 is the top, 0 the whole path."""
    max_per_brand: Annotated[int, Field(ge=1, le=200)] | None = None
    price_min: Price | None = None
    """An item without a price meets neither bound."""
    price_max: Price | None = None
    new_item_share: Annotated[float, Field(ge=0, le=1)] | None = None
    new_item_days: Annotated[float, Field(gt=0)] | None = None
    hide: Hidden = Hidden()
    boosts: Annotated[list[Boost], Field(max_length=100)] = []
    pins: Annotated[list[Pin], Field(max_length=50)] = []
    promoted: Annotated[list[PromotedSlot], Field(max_length=20)] = []

    @model_validator(mode="after")
    def _one_item_a_place(self) -> Self:
        pinned = [pin.position for pin in self.pins]
        taken = pinned + [place for slot in self.promoted for place in slot.positions]
        twice = sorted({place for place in taken if taken.count(place) > 1})
        if twice:
            raise ValueError(f"position {twice[0]} is given twice; a place holds one item")
        low, high = self.price_min, self.price_max
        if low is not None and high is not None and low > high:
            raise ValueError(f"price_min = {low} is above price_max = {high}; swap them")
        return self


class RulesFile(_Table):
    """The whole file."""

    all: ScenarioRules = ScenarioRules()
    scenarios: Annotated[dict[Name, ScenarioRules], Field(max_length=100)] = {}

    @model_validator(mode="after")
    def _only_presets_are_like(self) -> Self:
        for name in SCENARIOS:
            if name in self.scenarios and self.scenarios[name].like is not None:
                raise ValueError(
                    f"scenarios.{name}.like: only a preset of your own is like another"
                )
        if self.all.like is not None:
            raise ValueError("all.like: only a preset of your own is like another")
        return self


def parse_rules(text: str, where: str) -> RulesFile:
    """Read a rules file's text; `where` names it in errors.

    Raises:
        SettingsError: it is not TOML, or a key or value is wrong; each with what would be right.
    """
    try:
        return RulesFile.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{where}: not TOML: {error}") from None
    except ValidationError as error:
        told = [_told(detail) for detail in error.errors(include_url=False)]
        more = f"; and {len(told) - _SHOWN} more" if len(told) > _SHOWN else ""
        raise SettingsError(f"{where}: {'; '.join(told[:_SHOWN])}{more}") from None


def _told(detail: Any) -> str:
    """Name the key, its value, and what would be right."""
    place = ".".join(str(part) for part in detail["loc"])
    value, message = detail["input"], str(detail["msg"]).removeprefix("Value error, ")
    if detail["type"] == "extra_forbidden":
        return f"{place}: unknown key; known: {_known(detail['loc'])}"
    if detail["type"] == "missing":
        return f"{place}: must be given"
    if isinstance(value, dict | list | BaseModel):
        return f"{place}: {message}" if place else message
    return f"{place} = {value!r}: {message}"


def _known(loc: tuple[Any, ...]) -> list[str]:
    """Return the keys of the table that an unknown one stands in."""
    tables: dict[str, type[BaseModel]] = {
        "hide": Hidden,
        "boosts": Boost,
        "pins": Pin,
        "promoted": PromotedSlot,
    }
    inside = [tables[part] for part in loc[:-1] if part in tables]
    if inside:
        return list(inside[-1].model_fields)
    return list((ScenarioRules if len(loc) > 1 else RulesFile).model_fields)
