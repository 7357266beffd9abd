"""The one tree of errors.

Each message names the thing, the value and the remedy; each class has an exit code.

AmalgamError            1  something went wrong that is ours
├── BadInputError       2  a file, request or argument is not what it says
├── SettingsError       2  a setting or an environment variable is missing or wrong
├── NotFoundError       3  a release, table, shopper or folder that was named does not exist
├── RefusedError        4  a rule said no: the gate, a blocked batch, an unsafe promotion
│   └── VersionErased   4  an older version of a table, which an erase or a new key made unreadable
├── UnavailableError    5  a server, lock or port that is needed is not there
├── NotFittedError      1  a model was used before fit() or load()
└── CorruptError        1  a checksum or a format on our own disk does not match
"""

from typing import ClassVar


class AmalgamError(Exception):
    """Base of every error Amalgam raises on purpose."""

    exit_code: ClassVar[int] = 1
    code: ClassVar[str] = "error"


class BadInputError(AmalgamError):
    """A file, request or argument is not what it says it is."""

    exit_code = 2
    code = "bad_input"


class SettingsError(AmalgamError):
    """A setting or an environment variable is missing or wrong."""

    exit_code = 2
    code = "bad_settings"


class NotFoundError(AmalgamError):
    """Something that was named does not exist."""

    exit_code = 3
    code = "not_found"


class RefusedError(AmalgamError):
    """A rule said no."""

    exit_code = 4
    code = "refused"


class VersionErased(RefusedError):  # noqa: N818 - DESIGN's name
    """An older version of a table cannot be read: an erase or a new key took it away."""

    code = "version_erased"


class UnavailableError(AmalgamError):
    """A server, lock or port that is needed is not there."""

    exit_code = 5
    code = "unavailable"


class NotFittedError(AmalgamError):
    """A model was used before fit() or load()."""

    code = "not_fitted"


class CorruptError(AmalgamError):
    """A checksum or a format on our own disk does not match."""

    code = "corrupt"
