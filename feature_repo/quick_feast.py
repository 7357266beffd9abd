"""How Feast is imported here: without what makes that take seven seconds, and nobody asked for.

Feast decorates its classes with typeguard, which parses, rewrites and compiles each of their
modules once a method; typeguard means that for development. And it imports torch for two functions
that make tensors; here they import torch when they are called.
"""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Final

_TORCH_WRAPPER: Final = "feast.torch_wrapper"


def import_feast() -> None:
    """Import Feast, unless somebody did before."""
    if "feast" in sys.modules:
        return
    sys.modules[_TORCH_WRAPPER] = _torch_when_asked()
    with _without_type_checks():
        importlib.import_module("feast")


@contextmanager
def _without_type_checks() -> Iterator[None]:
    typeguard: Any = importlib.import_module("typeguard")
    checked = typeguard.typechecked
    typeguard.typechecked = _as_it_is
    try:
        yield
    finally:
        typeguard.typechecked = checked


def _as_it_is(target: Any = None, **options: Any) -> Any:
    """Decorate as `typeguard.typechecked` does where Python runs without its assertions."""
    return _as_it_is if target is None else target


def _torch_when_asked() -> ModuleType:
    """Return a module that stands for Feast's own of that name, which imports torch at once."""
    wrapper = ModuleType(_TORCH_WRAPPER, "Imports torch when it is asked for.")
    vars(wrapper)["get_torch"] = lambda: importlib.import_module("torch")
    return wrapper
