"""Death at a system call: the kernel ends this process the moment it would publish a commit.

Between a Delta commit's Parquet files and the commit itself lies a fraction of a millisecond, too
little to be hit from outside. A seccomp filter hits it always: the commit is published by a hard
link, and the filter ends the whole process there, as hard as SIGKILL (no handler runs).
"""

import ctypes
import os
import platform
import signal
import struct
from typing import Final

ENDED_BY: Final = signal.SIGSYS
"""The signal that the parent sees."""
NUMBERS: Final = {"x86_64": (317, (86, 265)), "aarch64": (277, (37,))}
"""By machine: the numbers of the calls seccomp, and link and linkat."""

NO_NEW_PRIVILEGES: Final = 38
SET_FILTER, ALL_THREADS = 1, 1
KILL_PROCESS, ALLOW = 0x80000000, 0x7FFF0000
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06


def possible() -> bool:
    """Return whether this machine's calls are known here."""
    return platform.system() == "Linux" and platform.machine() in NUMBERS


def die_at_next_link() -> None:
    """Let any thread of this process end it when it makes a hard link; there is no way back.

    Raises:
        OSError: the kernel takes no filter.
    """
    seccomp, links = NUMBERS[platform.machine()]
    steps = [(LOAD, 0, 0, 0)]  # the number of the call
    for place, number in enumerate(links):
        steps.append((JUMP_IF_EQUAL, len(links) - place, 0, number))
    steps += [(RETURN, 0, 0, ALLOW), (RETURN, 0, 0, KILL_PROCESS)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = struct.pack("HxxxxxxP", len(steps), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0) or libc.syscall(
        seccomp, SET_FILTER, ALL_THREADS, ctypes.create_string_buffer(program)
    ):
        raise OSError(ctypes.get_errno(), f"no filter: {os.strerror(ctypes.get_errno())}")
