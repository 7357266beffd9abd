"""How many random examples a property is tried on: a few by default, more for `make prove`."""

import os

EXAMPLES_VARIABLE = "AMALGAM_EXAMPLES"


def examples(few: int) -> int:
    """Return `few`, times what AMALGAM_EXAMPLES says."""
    return few * int(os.environ.get(EXAMPLES_VARIABLE, "1"))
