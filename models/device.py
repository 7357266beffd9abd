"""The one place where a device is chosen; it is logged, so that no run is silently on the CPU."""

import logging
from functools import cache
from typing import TYPE_CHECKING, Literal

from contracts.errors import SettingsError

if TYPE_CHECKING:
    import torch

DeviceName = Literal["auto", "cpu", "cuda"]
_log = logging.getLogger(__name__)


def choose_device(name: DeviceName) -> "torch.device":
    """Return the device of `name`; "auto" is CUDA where there is a GPU, else the CPU.

    Raises SettingsError for "cuda" without a usable GPU, and for any other name. The choice is
    logged once per process and name.
    """
    import torch

    if name not in {"auto", "cpu", "cuda"}:
        raise SettingsError(f"device = {name!r}: must be one of ['auto', 'cpu', 'cuda']")
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise SettingsError('device = "cuda": torch sees no GPU; set device to "auto" or "cpu"')
    kind = "cuda" if available and name != "cpu" else "cpu"
    _announce(name, kind)
    return torch.device(kind)


@cache
def _announce(asked: str, kind: str) -> None:
    import torch

    what = torch.cuda.get_device_name() if kind == "cuda" else f"{torch.get_num_threads()} threads"
    _log.info("device %s (asked: %s), %s", kind, asked, what)
