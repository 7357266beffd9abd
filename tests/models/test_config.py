"""Options are read strictly."""

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from contracts.errors import SettingsError
from models.config import load_config


@dataclass(frozen=True)
class Inner:
    decay: float = 0.5


@dataclass(frozen=True)
class Options:
    size: int
    rate: float = 0.1
    loss: Literal["a", "b"] = "a"
    limit: int | None = None
    sizes: tuple[int, ...] = ()
    on: bool = False
    shares: dict[str, float] = field(default_factory=dict)
    inner: Inner = field(default_factory=Inner)

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size = {self.size}: must be at least 1")


def test_values_and_defaults() -> None:
    given: dict[str, Any] = {"size": 3, "rate": 2, "limit": 5, "sizes": [1, 2], "on": True}
    loaded = load_config(
        Options, {**given, "inner": {"decay": 1}, "shares": {"x": 1}}, where="retrievers.x"
    )
    assert loaded == Options(3, 2.0, "a", 5, (1, 2), True, {"x": 1.0}, Inner(1.0))
    assert isinstance(loaded.rate, float)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 1, "siez": 2}, r"^retrievers\.x\.siez = 2: .*known: .*'size'"),
        ({"size": "3"}, r"^retrievers\.x\.size = '3': must be of type int, not str"),
        ({"size": True}, r"size = True: must be of type int"),
        ({"size": 1.0}, r"size = 1\.0: must be of type int"),
        ({"size": 1, "rate": float("nan")}, r"rate = nan: must be a finite number"),
        ({"size": 1, "on": 1}, r"on = 1: must be of type bool"),
        ({"size": 1, "loss": "c"}, r"loss = 'c': must be one of \['a', 'b'\]"),
        ({"size": 1, "limit": "no"}, r"limit = 'no': must be one of the types"),
        ({"size": 1, "sizes": [1, "2"]}, r"sizes\[1\] = '2'"),
        ({"size": 1, "inner": {"dekay": 1}}, r"^retrievers\.x\.inner\.dekay = 1"),
        ({"size": 1, "shares": {"x": "1"}}, r"shares\.x = '1'"),
        ({}, r"retrievers\.x: .*'size'"),
        ({"size": 0}, r"^retrievers\.x: size = 0: must be at least 1"),
    ],
)
def test_refusals_name_place_and_value(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        load_config(Options, options, where="retrievers.x")
