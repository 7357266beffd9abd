"""How many requests a second a key may send, over all workers of an installation.

The leaky bucket as a meter, in its form of one number a key (GCRA, ITU-T I.371): the moment at
which the bucket will be empty again. The numbers are in a small file that all workers map, so a key
has one rate, however many workers there are.
"""

import fcntl
import math
import mmap
import os
import struct
from pathlib import Path
from typing import Final

BURST_SECONDS: Final = 1.0
"""A key that was quiet may send this many seconds' worth at once."""
MOMENT: Final = struct.Struct("d")
ROUNDING: Final = 1e-9


class Rates:
    """The meters of `keys` keys in one file; called from one thread of each worker."""

    def __init__(self, path: Path, *, keys: int, per_second: float) -> None:
        """Open the file, made if missing.

        per_second   requests a key may send in the long run, above 0
        """
        size = MOMENT.size * max(keys, 1)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._interval = 1.0 / per_second
        self._burst = max(BURST_SECONDS, self._interval)
        self._handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
        if os.fstat(self._handle).st_size < size:
            os.truncate(self._handle, size)
        self._moments = mmap.mmap(self._handle, size)

    def wait_seconds(self, key: int, now: float) -> float:
        """Count one request of a key and return 0; or, when it is over its rate, count nothing and
        return the seconds after which one more may come.

        `now` is a monotonic clock in seconds, the same for all workers.
        """
        place = key * MOMENT.size
        fcntl.lockf(self._handle, fcntl.LOCK_EX)
        try:
            (empty_at,) = MOMENT.unpack_from(self._moments, place)
            # Further ahead than ever is written: of a machine's earlier boot and its clock.
            if not now <= empty_at <= now + self._burst + self._interval:
                empty_at = now
            wait: float = empty_at + self._interval - now - self._burst
            if wait > ROUNDING:
                return wait
            MOMENT.pack_into(self._moments, place, empty_at + self._interval)
            return 0.0
        finally:
            fcntl.lockf(self._handle, fcntl.LOCK_UN)


def retry_after(wait_seconds: float) -> str:
    """Return the value of the header Retry-After: whole seconds, at least one."""
    return str(max(1, math.ceil(wait_seconds)))
