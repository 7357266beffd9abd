"""Checkpoints of a training: one safetensors file, whole or absent, that a rerun goes on from."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from contracts import atomic
from contracts.errors import CorruptError
from models.base import FloatArray, TrainingData

_STATE = "training_state"
_FORMAT = 2
"""Raised with each change of what a checkpoint holds, or of what a training draws by its seed."""


class Checkpoint:
    """The file of one training in a folder of checkpoints.

    Its name holds the fingerprint of all that decides the result, so that a training of other data,
    options, seed or threads never goes on from it.
    """

    def __init__(self, folder: Path, name: str, fingerprint: str, device: torch.device) -> None:
        self.path = folder / f"{name}-{fingerprint[:24]}.safetensors"
        self.device = device

    def save(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        best: Mapping[str, Tensor],
        state: Mapping[str, Any],
    ) -> None:
        """Write weights, best weights so far, optimizer and random state, and `state` as JSON."""
        tensors = {f"network.{key}": value for key, value in network.state_dict().items()}
        tensors |= {f"best.{key}": value for key, value in best.items()}
        for place, slots in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{place}.{key}": value for key, value in slots.items()}
        tensors["random.cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["random.cuda"] = torch.cuda.get_rng_state(self.device)
        plain = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
        text = json.dumps(state, allow_nan=False)
        atomic.write_bytes(self.path, save(plain, metadata={_STATE: text}))

    def load(
        self, network: nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """Put weights, optimizer and torch's random state back; return (state, best weights).

        None when there is no checkpoint. Raises CorruptError when the file cannot be read; weights
        and random state may then be half of it.
        """
        if not self.path.is_file():
            return None
        try:
            with safe_open(self.path, framework="pt") as file:
                state = json.loads(file.metadata()[_STATE])
                tensors = {key: file.get_tensor(key) for key in file.keys()}
            network.load_state_dict(_part(tensors, "network."))
            slots: dict[int, dict[str, Tensor]] = {}
            for key, value in _part(tensors, "optimizer.").items():
                place, _, slot = key.partition(".")
                slots.setdefault(int(place), {})[slot] = value
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": slots, "param_groups": groups})
            torch.set_rng_state(tensors["random.cpu"])
            if self.device.type == "cuda":
                torch.cuda.set_rng_state(tensors["random.cuda"], self.device)
        except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CorruptError(f"{self.path}: cannot be resumed from ({error})") from error
        best = {key: value.to(self.device) for key, value in _part(tensors, "best.").items()}
        return state, best


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}


def fingerprint(
    name: str,
    config: Any,
    data: TrainingData,
    event_weights: FloatArray,
    **more: int | str | None,
) -> str:
    """Return the sha256 of all that decides a training: model, options, data, seed, threads, torch.

    `config` is a frozen dataclass; `more` what else counts. Reads all of the data once.
    """
    facts = {
        "format": _FORMAT,
        "name": name,
        "config": dataclasses.asdict(config),
        "now": data.now,
        "n_users": data.n_users,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        **more,
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for array in (data.users, data.items, data.event_types, data.times, event_weights):
        digest.update(np.ascontiguousarray(array).data)
    c = data.catalogue
    for texts in (c.item_ids, c.titles, c.descriptions, c.categories, c.brands):
        digest.update("\0".join(texts).encode())
    digest.update(json.dumps(c.tags).encode())
    digest.update(np.ascontiguousarray(c.prices).data)
    return digest.hexdigest()
