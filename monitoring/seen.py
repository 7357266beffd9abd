"""Who was there before: a Bloom filter (Bloom 1970), from which nobody can be listed.

New shoppers are counted against those of the release's data without reading these again. The filter
takes 10 bits a shopper and says of 1 % of new ones that they are known.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

BITS_PER_ID: Final = 10
HASHES: Final = 7
Hashes = NDArray[np.uint64]


@dataclass(frozen=True)
class Seen:
    """The filter's bits, (M,) bool."""

    bits: NDArray[np.bool_]

    @classmethod
    def of(cls, hashes: Hashes) -> "Seen":
        """Return the filter that knows these (n,) 64-bit hashes."""
        known = np.unique(hashes)
        bits = np.zeros(max(1024, BITS_PER_ID * len(known)), np.bool_)
        for place in _places(known, len(bits)):
            bits[place] = True
        return cls(bits)

    def knows(self, hashes: Hashes) -> NDArray[np.bool_]:
        """Return whether each hash was put in, (n,); wrong for 1 % of those that were not."""
        found = np.ones(len(hashes), np.bool_)
        for place in _places(hashes, len(self.bits)):
            found &= self.bits[place]
        return found


def _places(hashes: Hashes, size: int) -> list[NDArray[np.int64]]:
    """Return the bits of each hash by double hashing (Kirsch and Mitzenmacher 2006)."""
    low, high = hashes & np.uint64(0xFFFFFFFF), (hashes >> np.uint64(32)) | np.uint64(1)
    return [
        ((low + np.uint64(turn) * high) % np.uint64(size)).astype(np.int64)
        for turn in range(HASHES)
    ]
