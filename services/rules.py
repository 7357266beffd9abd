"""What the shop wants of its lists, by scenario: built-in presets under the shop's rules file."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from contracts.errors import BadInputError, SettingsError
from contracts.rules_file import (
    SCENARIOS,
    Hidden,
    PromotedSlot,
    RulesFile,
    ScenarioRules,
    parse_rules,
)
from contracts.wire_filters import Boost, Pin
from models.ranking.diversity import ListWishes, Variants

NO_RULES: Final = "none"
_LISTS: Final = ("hide", "boosts", "pins", "promoted")


@dataclass(frozen=True)
class Preset:
    """What one scenario asks of its lists; see ScenarioRules for each value."""

    diversity: float = 0.0
    variants: Variants = "any"
    exclude_bought: bool = False
    repeat_rate: float = 0.05
    max_per_category: int | None = None
    category_level: int = 0
    max_per_brand: int | None = None
    price_min: float | None = None
    price_max: float | None = None
    new_item_share: float = 0.0
    new_item_days: float = 30.0
    hide: tuple[Hidden, ...] = ()
    boosts: tuple[Boost, ...] = ()
    pins: tuple[Pin, ...] = ()
    promoted: tuple[PromotedSlot, ...] = ()

    @property
    def wishes(self) -> ListWishes:
        """What it asks of the items' order and number."""
        return ListWishes(
            diversity=self.diversity,
            max_per_category=self.max_per_category,
            max_per_brand=self.max_per_brand,
            variants=self.variants,
        )

    def under(self, rules: ScenarioRules) -> "Preset":
        """Return the preset with what `rules` say: values in place of its own, lists added to its
        own, a pin or a promoted slot in place of what stood at its position.
        """
        given: dict[str, Any] = {
            name: getattr(rules, name)
            for name in rules.model_fields_set - {"like", *_LISTS}
            if getattr(rules, name) is not None
        }
        taken = {pin.position for pin in rules.pins}
        taken |= {place for slot in rules.promoted for place in slot.positions}
        slots = (_without(slot, taken) for slot in self.promoted)
        return replace(
            self,
            **given,
            hide=(*self.hide, rules.hide) if rules.hide != Hidden() else self.hide,
            boosts=(*self.boosts, *rules.boosts),
            pins=(*(pin for pin in self.pins if pin.position not in taken), *rules.pins),
            promoted=(*(slot for slot in slots if slot is not None), *rules.promoted),
        )


BUILT_IN: Final[Mapping[str, Preset]] = {
    # As the release ranks: these lists are the ones that the gate judged.
    "home": Preset(),
    "product": Preset(),
    "cart": Preset(),
    # It is read for days and cannot change: a choice, nothing twice, nothing bought already.
    "email": Preset(exclude_bought=True, diversity=0.3, variants="one"),
}


@dataclass(frozen=True)
class Rules:
    """The presets by name, and the digest of the file they come from (`none`: no file).

    `hide` is what no list, search or related item shows, whatever the scenario. `error` says why
    the file that lies there now is not in use.
    """

    presets: Mapping[str, Preset] = field(default_factory=lambda: dict(BUILT_IN))
    digest: str = NO_RULES
    hide: Hidden = Hidden()
    error: str | None = None

    @classmethod
    def of(cls, file: RulesFile, digest: str, shop: ScenarioRules | None = None) -> "Rules":
        """Put a file over the built-in presets; `shop` holds what the settings say of all lists.

        Raises:
            SettingsError: what comes together does not, e.g. a price window is empty.
        """
        everywhere = [rules for rules in (shop, file.all) if rules is not None]

        def made(name: str, start: Preset) -> Preset:
            for rules in everywhere:
                start = start.under(rules)
            own = file.scenarios.get(name)
            return start if own is None else start.under(own)

        presets = {name: made(name, BUILT_IN[name]) for name in SCENARIOS}
        for name, own in file.scenarios.items():
            if name not in BUILT_IN:
                presets[name] = presets[own.like or "home"].under(own)
        for name, preset in presets.items():
            low, high = preset.price_min, preset.price_max
            if low is not None and high is not None and low > high:
                raise SettingsError(
                    f"scenarios.{name}: price_min = {low} is above price_max = {high}, one of them "
                    "from [all]; set both in the scenario"
                )
        return cls(presets, digest, file.all.hide)

    @classmethod
    def everywhere(cls, **values: Any) -> "Rules":
        """Return the built-in presets with these values of ScenarioRules in all of them."""
        return cls.of(RulesFile(), NO_RULES, ScenarioRules(**values))

    def preset(self, scenario: str) -> Preset:
        """Return the preset of a scenario.

        Raises:
            BadInputError: there is none of that name.
        """
        found = self.presets.get(scenario)
        if found is None:
            raise BadInputError(f"unknown scenario {scenario!r}; known: {sorted(self.presets)}")
        return found


def read_rules(data: bytes, where: str, shop: ScenarioRules | None = None) -> Rules:
    """Read a rules file's bytes; SettingsError says what is wrong and what would be right."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise SettingsError(f"{where}: not UTF-8; save it as UTF-8") from None
    try:
        return Rules.of(parse_rules(text, where), digest_of(data), shop)
    except SettingsError as error:
        told = str(error)
        raise SettingsError(told if told.startswith(where) else f"{where}: {told}") from None


def digest_of(data: bytes) -> str:
    """Return the short digest that names a rules file."""
    return hashlib.sha256(data).hexdigest()[:12]


def _without(slot: PromotedSlot, taken: set[int]) -> PromotedSlot | None:
    """Return a slot without the positions that are taken, None when none is left."""
    left = [place for place in slot.positions if place not in taken]
    return slot.model_copy(update={"positions": left}) if left else None
