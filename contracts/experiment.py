"""One running experiment: two releases, the share of shoppers that the challenger gets, and who
gets it.

Kinds: `canary` and `ab` show the challenger's answers to its share; `shadow` shows the control's
answers to everyone and scores its share with the challenger beside, without showing it.
"""

import hashlib
import re
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final, Literal, get_args

from contracts.errors import BadInputError

Kind = Literal["canary", "ab", "shadow"]
Arm = Literal["control", "challenger"]
Outcome = Literal["promoted", "rolled_back", "inconclusive", "stopped"]
"""How one ended: the challenger is the champion, or went back because of what it did or of a
rollback; it showed no difference in its time; a person ended it.
"""

KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
ARMS: Final[tuple[Arm, ...]] = get_args(Arm)
OUTCOMES: Final[tuple[Outcome, ...]] = get_args(Outcome)
SHADOW: Final = "shadow"
"""What stands for the arm in the prediction log's lines that nobody was shown."""

SHADOW_ENDING: Final = f":{SHADOW}"
"""How `experiment_arm` and `request_id` end in those lines: the answer that was shown beside has
the request id without it.
"""

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_BITS = 53  # a float64 holds that many exactly
_SIZE = float(1 << _BITS)


@dataclass(frozen=True)
class Experiment:
    """What the workers follow while it runs.

    id            e.g. `e-0007`; no colon, since the log writes `id:arm`
    control       version of the release that answers those who are not in the share
    challenger    version of the other; equal ones make an A/A test
    share         of the shoppers, 0 to 1, whom the challenger answers (shadow: is scored for)
    salt          what the shoppers are drawn with: with the same salt, who is in at one share is
                  in at every higher one
    started       UTC
    """

    id: str
    kind: Kind
    control: str
    challenger: str
    share: float
    salt: str
    started: datetime
    who: str
    why: str

    def __post_init__(self) -> None:
        """Refuse what is no experiment."""
        if not _ID.fullmatch(self.id):
            raise BadInputError(f"experiment id {self.id!r} is not like e-0007")
        if self.kind not in KINDS:
            raise BadInputError(f"experiment {self.id}: kind {self.kind!r} is none of {KINDS}")
        for name in ("control", "challenger"):
            if not getattr(self, name):
                raise BadInputError(f"experiment {self.id}: {name} names no release")
        if not 0.0 <= self.share <= 1.0:
            raise BadInputError(f"experiment {self.id}: share {self.share} is not within 0 and 1")
        if not self.salt:
            raise BadInputError(f"experiment {self.id}: the salt is empty")
        if self.started.tzinfo is None:
            raise BadInputError(f"experiment {self.id}: started has no time zone; give UTC")


def position_of(salt: str, unit: str) -> float:
    """Return where a unit stands in [0, 1): the same at any time, in any process.

    >>> position_of("salt", "shopper") == position_of("salt", "shopper")
    True
    """
    digest = hashlib.sha256(f"{salt}\x1f{unit}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> (64 - _BITS)) / _SIZE


def arm_of(experiment: Experiment, unit: str) -> Arm:
    """Return the arm of a unit (a user's pseudonym, else a session's): `challenger` where its
    position is below the share.
    """
    return "challenger" if position_of(experiment.salt, unit) < experiment.share else "control"


def propensity_of(experiment: Experiment, arm: Arm) -> float:
    """Return the share of the units that `arm` gets."""
    return experiment.share if arm == "challenger" else 1.0 - experiment.share


def arm_label(experiment: Experiment, arm: str) -> str:
    """Return what the prediction log's `experiment_arm` says: `e-0007:challenger`."""
    return f"{experiment.id}:{arm}"


def parse_label(label: str) -> tuple[str, str]:
    """Return the experiment's id and the arm (`control`, `challenger` or `shadow`) of a label.

    >>> parse_label("e-0007:challenger")
    ('e-0007', 'challenger')
    """
    experiment, _, arm = label.rpartition(":")
    if not experiment or arm not in {*ARMS, SHADOW}:
        raise BadInputError(f"{label!r} is not an experiment's arm, like e-0007:challenger")
    return experiment, arm


def to_json(experiment: Experiment) -> dict[str, Any]:
    """Return the experiment as JSON values; `started` in ISO."""
    return asdict(experiment) | {"started": experiment.started.isoformat()}


def from_json(value: Any) -> Experiment:
    """Return the experiment that `to_json` wrote.

    Raises:
        BadInputError: a field is missing, unknown or wrong.
    """
    try:
        return Experiment(**(value | {"started": datetime.fromisoformat(value["started"])}))
    except (KeyError, TypeError, ValueError) as error:
        raise BadInputError(f"{value!r} is not an experiment: {error!r}") from None
