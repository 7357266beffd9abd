"""Names in a shop's rules that its catalogue does not know: mistyped, or gone."""

from collections.abc import Iterable, Iterator

from models.base import PAD
from models.search.filters import Filters as ItemFilters
from services.rules import Preset, Rules
from services.shelf import Shelf

Named = tuple[str, str]


def unknown_names(rules: Rules, shelf: Shelf) -> list[str]:
    """Return what the rules name and no item of the snapshot has, e.g. `brand 'Acme'`, each once.

    It is no error: an item may come back, and rules may be written before it comes.
    """
    named = dict.fromkeys(name for preset in rules.presets.values() for name in _names(preset))
    items = [value for kind, value in named if kind == "item"]
    places = shelf.index.lookup(items)
    gone = {item for item, place in zip(items, places, strict=True) if place == PAD}
    return [f"{kind} {value!r}" for kind, value in named if _missing(kind, value, gone, shelf)]


def _missing(kind: str, value: str, gone: set[str], shelf: Shelf) -> bool:
    if kind == "item":
        return value in gone
    wanted = {
        "category": ItemFilters(categories=(value,)),
        "brand": ItemFilters(brands=(value,)),
        "tag": ItemFilters(tags=(value,)),
    }
    return not shelf.facts.mask(wanted[kind], None).any()


def _names(preset: Preset) -> Iterator[Named]:
    for block in preset.hide:
        yield from _each("item", block.items)
        yield from _each("category", block.categories)
        yield from _each("brand", block.brands)
        yield from _each("tag", block.tags)
    for boost in preset.boosts:
        yield from _each("item", [boost.item_id])
        yield from _each("category", [boost.category])
        yield from _each("brand", [boost.brand])
        yield from _each("tag", [boost.tag])
    yield from _each("item", [pin.item_id for pin in preset.pins])
    for slot in preset.promoted:
        yield from _each("item", slot.items)


def _each(kind: str, values: Iterable[str | None]) -> Iterator[Named]:
    return ((kind, value) for value in values if value is not None)
