"""SASRec's network for one history, in numpy: a tenth of the calls that torch makes of it."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from models.base import FloatArray

_HIDDEN = np.float32(-np.inf)
_EPSILON = np.float32(1e-5)  # torch's own


class _Weights:
    """The state of the network by name, each part of the shape it must have."""

    def __init__(self, arrays: Mapping[str, FloatArray]) -> None:
        self._arrays = arrays
        self._left = set(arrays)

    def take(self, name: str, *shape: int) -> FloatArray:
        """Return one; KeyError when it is missing, ValueError when it is of another shape."""
        array = self._arrays[name]
        if array.shape != shape or array.dtype != np.float32:
            raise ValueError(f"{name} is {array.dtype} {array.shape}, not float32 {shape}")
        self._left.remove(name)
        return array

    def finish(self) -> None:
        """Raise ValueError when something was not taken."""
        if self._left:
            raise ValueError(f"unknown weights {sorted(self._left)}")


def _normed(x: FloatArray) -> FloatArray:
    """Bring each row of (L, D) to mean 0 and variance 1, as layer normalisation does before its
    weights.
    """
    share = np.float32(1 / x.shape[-1])
    centred = x - np.add.reduce(x, axis=-1, keepdims=True) * share
    variance = np.einsum("ld,ld->l", centred, centred)[:, None] * share
    normed: FloatArray = (centred / np.sqrt(variance + _EPSILON)).astype(np.float32, copy=False)
    return normed


@dataclass(frozen=True)
class _Linear:
    """x W' + b."""

    weight: FloatArray  # (in, out)
    bias: FloatArray

    @classmethod
    def of(cls, weights: _Weights, name: str, size: int, out: int) -> "_Linear":
        weight = np.ascontiguousarray(weights.take(f"{name}.weight", out, size).T)
        return cls(weight, weights.take(f"{name}.bias", out))

    def after_norm(self, weights: _Weights, name: str) -> "_Linear":
        """Return what does the same to rows that lack the weights of a layer normalisation."""
        size = len(self.weight)
        scale, shift = weights.take(f"{name}.weight", size), weights.take(f"{name}.bias", size)
        return _Linear(scale[:, None] * self.weight, shift @ self.weight + self.bias)

    def __call__(self, x: FloatArray) -> FloatArray:
        result: FloatArray = x @ self.weight
        result += self.bias
        return result


class _Layer:
    """One block of the network, on (L, D) places."""

    def __init__(self, weights: _Weights, name: str, size: int, heads: int) -> None:
        self._heads = heads
        qkv = _Linear.of(weights, f"{name}.qkv", size, 3 * size)
        self._qkv = qkv.after_norm(weights, f"{name}.attention_norm")
        scale = np.float32((size // heads) ** -0.5)  # of queries
        self._qkv.weight[:, :size] *= scale
        self._qkv.bias[:size] *= scale
        self._out, wide, self._narrow = (
            _Linear.of(weights, f"{name}.{part}", size, size) for part in ("out", "wide", "narrow")
        )
        self._wide = wide.after_norm(weights, f"{name}.forward_norm")

    def __call__(self, x: FloatArray, hidden: FloatArray | None) -> FloatArray:
        """Return (L, D); with `hidden` None of the newest place alone, (1, D), which sees all.

        `hidden` (L, L) is -inf where a place must not look, else 0.
        """
        length, size = x.shape
        width = size // self._heads
        parts = self._qkv(_normed(x)).reshape(length, 3, self._heads, width)
        query, key, value = parts.transpose(1, 2, 0, 3)  # each (H, L, D / H)
        if hidden is None:
            query, x = query[:, -1:], x[-1:]
        seen = query @ key.transpose(0, 2, 1)  # (H, Q, L)
        if hidden is not None:
            seen += hidden
        seen -= np.maximum.reduce(seen, axis=-1, keepdims=True)
        np.exp(seen, out=seen)
        seen /= np.add.reduce(seen, axis=-1, keepdims=True)
        mixed: FloatArray = np.matmul(seen, value)  # (H, Q, D / H)
        after = self._out(mixed.transpose(1, 0, 2).reshape(len(x), size))
        after += x
        inner = self._wide(_normed(after))
        np.maximum(inner, 0, out=inner)
        after += self._narrow(inner)
        return after


class OneSASRec:
    """What `SASRecNetwork.last` gives for a single history without padding.

    state   the state_dict of a network without filters, float32
    length  of a history, at most; `size` is the width D

    Raises KeyError or ValueError for the state of another network.
    """

    def __init__(
        self, state: Mapping[str, FloatArray], *, layers: int, heads: int, length: int, size: int
    ) -> None:
        weights = _Weights(state)
        weights.take("items.weight", len(state["items.weight"]), size)
        self._scale = np.float32(weights.take("input_scale"))
        self._positions = weights.take("positions", length, size)
        self._layers = [_Layer(weights, f"blocks.{n}", size, heads) for n in range(layers)]
        self._last = weights.take("norm.weight", size), weights.take("norm.bias", size)
        weights.finish()
        self._hidden = np.where(np.tri(length, dtype=bool), np.float32(0), _HIDDEN)

    def __call__(self, items: FloatArray) -> FloatArray:
        """Return the (D,) state after the (L, D) vectors of a history's items, oldest first."""
        length = len(items)
        x = items * self._scale + self._positions[-length:]
        for layer in self._layers[:-1]:
            x = layer(x, self._hidden[:length, :length])
        scale, shift = self._last
        state: FloatArray = _normed(self._layers[-1](x, None))[0] * scale + shift
        return state
