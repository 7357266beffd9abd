"""How the innermost loops of the second stage are compiled, and the array types they take.

One request asks for some fifty features of 300 pairs: laid out as array operations that is a
thousand small calls, as one compiled loop it is one. Training runs the same loops over many
queries, so that a live request gets what its row of a training frame holds, bit for bit. Compiled
code is kept beside the sources (or below NUMBA_CACHE_DIR), so only the first import compiles; where
neither can be written to, each does.
"""

import logging
from collections.abc import Callable
from functools import cache
from typing import Any, Final, TypeVar, cast

import numba
from numba import types

Function = TypeVar("Function", bound=Callable[..., Any])

_log = logging.getLogger(__name__)


def _array(kind: Any, n_dimensions: int) -> Any:
    """Return the type of a contiguous array that is only read; memory-mapped ones are."""
    return types.Array(kind, n_dimensions, "C", readonly=True)


BOOL_1, BOOL_2, BOOL_3 = (_array(types.boolean, n) for n in (1, 2, 3))
INT8_1, INT8_2 = (_array(types.int8, n) for n in (1, 2))
INT32_1, INT32_2 = (_array(types.int32, n) for n in (1, 2))
INT64_1, INT64_2, INT64_3 = (_array(types.int64, n) for n in (1, 2, 3))
FLOAT32_1, FLOAT32_2, FLOAT32_3 = (_array(types.float32, n) for n in (1, 2, 3))
FLOAT64_1, FLOAT64_2 = (_array(types.float64, n) for n in (1, 2))
INT64: Final = types.int64
FLOAT32: Final = types.float32
FLOAT64: Final = types.float64
OUT_2, OUT_3 = (types.Array(types.float32, n, "A") for n in (2, 3))
"""Parts of a frame, to write to."""
OUT_INT8, OUT_INT32, OUT_FLOAT32 = (
    types.Array(kind, 2, "C") for kind in (types.int8, types.int32, types.float32)
)
"""Whole arrays, to write to."""


def compiled(*arguments: tuple[Any, ...]) -> Callable[[Function], Function]:
    """Compile a function for arguments of these types alone, each tuple a way to call it, when its
    module is imported; without the interpreter's lock, and in the order of operations as written.
    """

    def made(function: Function) -> Function:
        return _made(function, list(arguments))

    return made


def inlined(function: Function) -> Function:
    """Compile a function that compiled ones of the same module call: a change of its module alone
    is seen when these are kept on disk.
    """
    return _made(function)


def added_up(function: Function) -> Function:
    """As `inlined`, of a sum whose terms the compiler may add in another order, eight at a time: a
    fixed one for each kind of processor, as in a library of linear algebra.
    """
    return _made(function, fastmath={"reassoc", "contract"})


def _made(
    function: Function,
    arguments: list[tuple[Any, ...]] | None = None,
    fastmath: bool | set[str] = False,
) -> Function:
    """Compile, and keep what comes of it on disk where that can be written to."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": fastmath}
    try:
        return cast(Function, numba.njit(arguments, cache=True, **options)(function))
    except RuntimeError as error:
        if "no locator available" not in str(error):
            raise
        _warn_once()
        return cast(Function, numba.njit(arguments, **options)(function))


@cache
def _warn_once() -> None:
    _log.warning(
        "compiled loops cannot be kept: neither the folder of the sources nor a home can be "
        "written to, so every start compiles them again; set NUMBA_CACHE_DIR to a folder that can"
    )
