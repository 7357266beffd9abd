"""Strict loading of options into frozen dataclasses: a misspelt key is an error, not a default."""

import dataclasses
import math
import types
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from contracts.errors import SettingsError

T = TypeVar("T")


def load_config(cls: type[T], options: Mapping[str, Any], *, where: str) -> T:
    """Make the frozen dataclass `cls` from `options`; fields that are absent keep their defaults.

    Types are checked, not coerced, but for two: an int is taken for a float, a list for a tuple
    (TOML and JSON have no tuples). Floats must be finite. A ValueError of `__post_init__` becomes a
    SettingsError. `where` is the place that messages name, e.g. "retrievers.ease".

    Raises SettingsError for an unknown key (lists the known ones), a wrong type or value, a missing
    field.
    """
    hints = get_type_hints(cls)
    known = [field.name for field in dataclasses.fields(cls) if field.init]  # type: ignore[arg-type]
    for key, value in options.items():
        if key not in known:
            raise SettingsError(
                f"{where}.{key} = {value!r}: there is no such option; known: {sorted(known)}"
            )
    values = {key: _checked(hints[key], v, f"{where}.{key}") for key, v in options.items()}
    try:
        return cls(**values)
    except (TypeError, ValueError) as error:
        raise SettingsError(f"{where}: {error}") from error


def _checked(expected: Any, value: Any, where: str) -> Any:
    """Return `value` as the type `expected`, or raise SettingsError that names `where`."""
    origin, arguments = get_origin(expected), get_args(expected)
    if origin in {Union, types.UnionType}:
        return _first_match(arguments, value, where)
    if origin is Literal:
        if not any(value == choice and type(value) is type(choice) for choice in arguments):
            raise SettingsError(f"{where} = {value!r}: must be one of {list(arguments)}")
        return value
    if origin in {tuple, list} and isinstance(value, list | tuple):
        if origin is tuple and (len(arguments) != 2 or arguments[1] is not Ellipsis):
            if len(arguments) != len(value):
                raise SettingsError(f"{where} = {value!r}: must have {len(arguments)} entries")
            kinds = arguments
        else:
            kinds = (arguments[0],) * len(value)
        return origin(
            _checked(kind, item, f"{where}[{place}]")
            for place, (kind, item) in enumerate(zip(kinds, value, strict=True))
        )
    if origin is dict and isinstance(value, Mapping):
        return {
            _checked(arguments[0], key, where): _checked(arguments[1], item, f"{where}.{key}")
            for key, item in value.items()
        }
    return _plain(origin or expected, value, where)


def _first_match(choices: tuple[Any, ...], value: Any, where: str) -> Any:
    for choice in choices:
        try:
            return _checked(choice, value, where)
        except SettingsError:
            continue
    names = [getattr(choice, "__name__", str(choice)) for choice in choices]
    raise SettingsError(f"{where} = {value!r}: must be one of the types {names}")


def _plain(expected: Any, value: Any, where: str) -> Any:
    if expected is Any:
        return value
    if dataclasses.is_dataclass(expected) and isinstance(expected, type):
        if isinstance(value, expected):
            return value
        if isinstance(value, Mapping):
            return load_config(expected, value, where=where)
    if expected is float and isinstance(value, int | float) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise SettingsError(f"{where} = {value!r}: must be a finite number")
        return float(value)
    if expected is None or expected is type(None):
        if value is None:
            return None
    elif isinstance(value, expected) and not (isinstance(value, bool) and expected is not bool):
        return value
    name = getattr(expected, "__name__", str(expected))
    raise SettingsError(f"{where} = {value!r}: must be of type {name}, not {type(value).__name__}")
