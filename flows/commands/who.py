"""Who runs a command, for the audit log."""

import getpass


def operator() -> str:
    """Return the name of who is logged in on this machine, and that it was a command."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # an account without a name, as in some containers
        name = "somebody"
    return f"{name} (command line)"
