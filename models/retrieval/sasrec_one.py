"""SASRec's network for one history, in numpy: a tenth of the calls that torch makes of it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from models.base import FloatArray

if TYPE_CHECKING:
    from models.retrieval.sasrec_network import Block, SASRecNetwork

_HIDDEN = np.float32(-np.inf)


@dataclass(frozen=True)
class _Norm:
    """Layer normalisation over the last axis."""

    weight: FloatArray
    bias: FloatArray
    epsilon: float

    @classmethod
    def of(cls, norm: nn.LayerNorm) -> "_Norm":
        return cls(norm.weight.detach().numpy(), norm.bias.detach().numpy(), norm.eps)

    def __call__(self, x: FloatArray) -> FloatArray:
        centred = x - x.mean(axis=-1, keepdims=True)
        variance = (centred * centred).mean(axis=-1, keepdims=True)
        normed: FloatArray = centred / np.sqrt(variance + np.float32(self.epsilon))
        normed *= self.weight
        normed += self.bias
        return normed


@dataclass(frozen=True)
class _Linear:
    """x W' + b."""

    weight: FloatArray  # (in, out)
    bias: FloatArray

    @classmethod
    def of(cls, linear: nn.Linear) -> "_Linear":
        weight = np.ascontiguousarray(linear.weight.detach().numpy().T)
        return cls(weight, linear.bias.detach().numpy())

    def __call__(self, x: FloatArray) -> FloatArray:
        result: FloatArray = x @ self.weight
        result += self.bias
        return result


class _Layer:
    """One block of the network, on (L, D) places."""

    def __init__(self, block: "Block") -> None:
        self._heads = block.heads
        self._attention_norm, self._forward_norm = (
            _Norm.of(norm) for norm in (block.attention_norm, block.forward_norm)
        )
        self._qkv, self._out, self._wide, self._narrow = (
            _Linear.of(part) for part in (block.qkv, block.out, block.wide, block.narrow)
        )

    def __call__(self, x: FloatArray, hidden: FloatArray | None) -> FloatArray:
        """Return (L, D); with `hidden` None of the newest place alone, (1, D), which sees all.

        `hidden` (L, L) is -inf where a place must not look, else 0.
        """
        length, size = x.shape
        width = size // self._heads
        parts = self._qkv(self._attention_norm(x)).reshape(length, 3, self._heads, width)
        query, key, value = parts.transpose(1, 2, 0, 3)  # each (H, L, D / H)
        if hidden is None:
            query, x = query[:, -1:], x[-1:]
        seen = query @ key.transpose(0, 2, 1)  # (H, Q, L)
        seen *= np.float32(width**-0.5)
        if hidden is not None:
            seen += hidden
        seen -= seen.max(axis=-1, keepdims=True)
        np.exp(seen, out=seen)
        seen /= seen.sum(axis=-1, keepdims=True)
        mixed: FloatArray = np.matmul(seen, value)  # (H, Q, D / H)
        after = self._out(mixed.transpose(1, 0, 2).reshape(len(x), size))
        after += x
        inner = self._wide(self._forward_norm(after))
        np.maximum(inner, 0, out=inner)
        after += self._narrow(inner)
        return after


class OneSASRec:
    """What `SASRecNetwork.last` gives for a single history without padding."""

    def __init__(self, network: "SASRecNetwork") -> None:
        self._scale = np.float32(network.input_scale)
        self._positions = network.positions.detach().numpy()
        self._layers = [_Layer(block) for block in network.layers()]
        self._norm = _Norm.of(network.norm)
        length = len(self._positions)
        self._hidden = np.where(np.tri(length, dtype=bool), np.float32(0), _HIDDEN)

    def __call__(self, items: FloatArray) -> FloatArray:
        """Return the (D,) state after the (L, D) vectors of a history's items, oldest first."""
        length = len(items)
        x = items * self._scale + self._positions[-length:]
        for layer in self._layers[:-1]:
            x = layer(x, self._hidden[:length, :length])
        state: FloatArray = self._norm(self._layers[-1](x, None))[0]
        return state
