"""Settings of one installation: a TOML file over defaults, and a few environment variables.

Read once, at the entrance, and passed down.
"""

import os
import tomllib
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from contracts.errors import SettingsError
from contracts.source_settings import SourceSettings, check_sources
from contracts.validation_settings import ValidationSettings
from contracts.wire_body import Name

HOME_VARIABLE = "AMALGAM_HOME"
CONFIG_VARIABLE = "AMALGAM_CONFIG"
DEMO_VARIABLE = "AMALGAM_DEMO"
DEFAULT_HOME = "./var"


class _Section(BaseModel, frozen=True, extra="forbid"):
    """A table of the settings file; unknown keys are refused."""


class ShopSettings(_Section):
    """Facts about the shop."""

    currency: str = "EUR"
    """The one currency of all prices (ISO 4217)."""
    opened: date = date(1995, 1, 1)
    """First day of the shop (UTC): an earlier event has a broken clock and is refused."""


class IntakeSettings(_Section):
    """How files come in."""

    chunk_rows: PositiveInt = 200_000
    """Rows validated and appended at a time: bounds memory."""
    landing_retention_days: NonNegativeInt = 0
    """Days a landed file is kept after ingest; 0 deletes it at once."""
    settle_seconds: NonNegativeFloat = 10.0
    """A file in a source's `paths` that changed less than this ago is left for the next ingest."""


class BuildingSettings(_Section):
    """How features are built from the lake."""

    memory_limit: str = Field(default="", pattern=r"^(\d+(\.\d+)?(KB|MB|GB|TB|KiB|MiB|GiB|TiB))?$")
    """Memory for a feature build, such as "4GB"; what does not fit is spilled to disk. Empty:
    80 % of the machine."""


class MonitorSettings(_Section):
    """Windows and thresholds of drift."""

    window_days: PositiveInt = 14
    """Length of the current window, and of the reference window before the release's data end."""
    minimum_rows: PositiveInt = 500
    """Fewer rows than this in a window, and no verdict is given."""
    psi_threshold: PositiveFloat = 0.1
    """Population stability index at or above which a column has drifted, where the past is too
    short to calibrate limits."""
    drifted_share: PositiveFloat = 0.2
    """Share of columns drifted from which the verdict is drift; of calibrated limits, one is."""
    severe_factor: PositiveFloat = 2.5
    """A column at this many times its limit is severe: drift by itself, and trained on sooner."""
    cooldown_days: NonNegativeInt = 3
    """Days after a release's data end in which severe drift starts no retraining; mild drift waits
    until the whole window lies after it."""
    rollback_hold_days: NonNegativeFloat = 3.0
    """Days after a rollback in which drift starts no training, and a training that nobody asked
    for by hand does not move the champion; `amalgam resume` ends it."""
    weekly_retrainings: NonNegativeInt = 2
    """Trainings in seven days after which drift does not start another."""
    follow_up_days: NonNegativeInt = 28
    """Days after a training on drift in which another follows whenever `window_days` have passed
    since the last: the first held little of what is new. 0: none follows."""
    reference_days: PositiveInt = 28
    """Last days before a release's data end that a window is compared with, weekday by weekday."""
    history_days: PositiveInt = 420
    """Days before its data end that a release keeps summed up: to calibrate the limits, and to
    compare with the same weeks of last year."""
    false_alarm_rate: float = Field(default=0.02, gt=0, lt=0.5)
    """Share of windows without change that may be called drift; limits are calibrated to it."""
    methods: dict[str, Literal["psi", "jensenshannon", "wasserstein"]] = Field(default_factory=dict)
    """Method by column (docs/monitoring.md); others: psi."""
    thresholds: dict[str, PositiveFloat] = Field(default_factory=dict)
    """Limit by column instead of the calibrated one."""
    attribution_hours: PositiveFloat = 24.0
    """An event counts for the list that led to it up to this long after; younger lists wait."""
    outcome_drop: float = Field(default=0.2, gt=0, lt=1)
    """Relative fall of CTR, conversion or NDCG of what is served from which it is drift, where the
    release has served for too few windows to calibrate."""
    bot_events_per_day: PositiveInt = 200
    """Events of one shopper in a day that are never too many; above, a bot is looked for."""
    broken_factor: float = Field(default=5.0, gt=1)
    """A day with so many times fewer events (or values) than usual is a broken feed; of events, the
    factor is lower where a shop's days are alike."""
    broken_price_factor: float = Field(default=10.0, gt=1)
    """Factor between a day's prices and the usual from which the feed is broken."""


class ServiceSettings(_Section):
    """The HTTP service."""

    host: str = "127.0.0.1"
    port: PositiveInt = 3000
    workers: PositiveInt = 1
    poll_seconds: PositiveFloat = 0.5
    """How often a worker looks at the champion and snapshot pointers."""
    journal_segment_rows: PositiveInt = 1_000
    """Events after which a worker closes its journal segment, for ingest to take."""
    requests_per_second: NonNegativeFloat = 0.0
    """Requests a second that one API key may send, over all workers, with bursts of one second's
    worth; 0: no limit."""
    tls_certificate: str = ""
    """PEM file of the certificate and those that vouch for it; with `tls_key`, the service speaks
    https alone. Empty: http, for behind a proxy that does it."""
    tls_key: str = ""
    """PEM file of the certificate's private key, which only the service may read."""

    @model_validator(mode="after")
    def _check_tls(self) -> "ServiceSettings":
        if bool(self.tls_certificate) != bool(self.tls_key):
            raise SettingsError(
                "service.tls_certificate and service.tls_key go together; set both or neither"
            )
        return self


class ServingSettings(_Section):
    """What the shop wants of every list that is served."""

    new_item_share: float = Field(default=0.0, ge=0, le=1)
    """Share of a list's places, rounded down, that go to new items if there are any; 0: no rule."""
    new_item_days: PositiveFloat = 30.0
    """An item is new for so many days after the shop first had it."""
    rules: str = ""
    """The shop's rules file (docs/rules.md), relative to AMALGAM_HOME; empty: `rules.toml` there,
    if it is there."""
    state_budget_ms: NonNegativeFloat = 50.0
    """A shopper's stored history that takes longer to read is done without; 0: never."""
    budget_ms: PositiveFloat = 200.0
    """A list that took longer than this to rank is not diversified or explained any more."""


class SearchSettings(_Section):
    """How products are searched (docs/search.md)."""

    synonyms: list[Annotated[list[Name], Field(min_length=2)]] = []
    """Groups of words or phrases that mean the same to the shop's shoppers."""
    dense_weight: float = Field(default=0.2, ge=0, le=1)
    """Share of likeness in how an item matches a query; the rest is the words themselves."""
    personal_weight: float = Field(default=0.3, ge=0, le=1)
    """Share of what the shopper likes in the order of the first matches; 0: the same list for
    all."""


class ExperimentSettings(_Section):
    """How a challenger is compared with the champion on shoppers (docs/experiments.md)."""

    promotion: Literal["direct", "canary"] = "direct"
    """What follows when a release passed the gate of a training: it is served to all, or first to
    a share of the shoppers and then to all, or to none."""
    share: float = Field(default=0.1, gt=0, lt=1)
    """Of the shoppers, whom the challenger answers."""
    metric: Literal["clicks", "conversion"] = "clicks"
    """Of a shopper: lists of which something was looked at, put in the cart or bought; or 1 if
    something was bought from any list. Rarer outcomes take longer."""
    margin: float = Field(default=0.05, ge=0, lt=1)
    """Share of the champion's outcome that a challenger may lack and still be promoted."""
    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    """Chance that the interval ever misses the difference, at all looks together."""
    minimum_shoppers: PositiveInt = 500
    """In each arm, before a promotion."""
    minimum_days: NonNegativeFloat = 7.0
    """Before a promotion: a whole week has all its days."""
    maximum_days: PositiveFloat = 28.0
    """After which it is decided by the estimate, or ends without a decision."""
    harm_days: PositiveFloat = 0.25
    """Days of the shop's outcomes that a challenger may cost, by the estimate; above, it goes when
    it is worse at `harm_alpha`."""
    harm_alpha: float = Field(default=0.05, gt=0, lt=0.5)
    """Chance that a challenger that is no worse is rolled back for what it cost."""


class UpkeepSettings(_Section):
    """How much of the past is kept, and how large the lake's files are to be."""

    vacuum_retention_days: PositiveInt = 7
    """Days that an older version of the lake can still be read (`train --as-of`)."""
    target_file_mb: PositiveInt = 128
    """Smaller files of a table are put together, up to about this size."""
    keep_reports_days: PositiveInt = 90
    """Days that pages of validation and drift and the outcomes of runs are kept."""
    keep_quarantine_days: PositiveInt = 90
    """Days that a refused row is kept, for a retry."""
    keep_releases: int = Field(default=10, ge=2)
    """Newest releases that are kept, and as many former champions; pinned ones besides."""


class OperationsSettings(_Section):
    """Ports and schedules (cron, UTC) of what `amalgam up` runs."""

    prefect_port: PositiveInt = 4200
    evidently_port: PositiveInt = 8001
    ingest_cron: str = "*/5 * * * *"
    materialize_cron: str = "2,32 * * * *"
    train_cron: str = "0 3 * * 1"
    monitor_cron: str = "0 2 * * *"
    upkeep_cron: str = "40 1 * * *"
    experiment_cron: str = "17 * * * *"
    webhook_url: str = ""
    """Where alerts are posted, as JSON; empty: nowhere. One that holds a secret goes into the
    environment, as AMALGAM_WEBHOOK_URL, instead."""


class Settings(_Section):
    """Everything an installation can choose.

    `training` and `retrievers` are checked by the strict loader of models.
    """

    home: Path
    """The one folder that everything written at run time lies under."""
    demo: bool = False
    """Public key for pseudonyms, no API keys: for looking around only."""
    shop: ShopSettings = ShopSettings()
    intake: IntakeSettings = IntakeSettings()
    validation: ValidationSettings = ValidationSettings()
    building: BuildingSettings = BuildingSettings()
    monitor: MonitorSettings = MonitorSettings()
    service: ServiceSettings = ServiceSettings()
    serving: ServingSettings = ServingSettings()
    search: SearchSettings = SearchSettings()
    experiment: ExperimentSettings = ExperimentSettings()
    operations: OperationsSettings = OperationsSettings()
    upkeep: UpkeepSettings = UpkeepSettings()
    training: dict[str, Any] = Field(default_factory=dict)
    retrievers: dict[str, dict[str, Any]] = Field(default_factory=dict)
    sources: dict[str, SourceSettings] = Field(default_factory=dict)
    """The shop's own exports and databases, by name (docs/sources.md)."""

    @model_validator(mode="after")
    def _check_sources(self) -> "Settings":
        check_sources(self.sources, self.shop.currency)
        return self

    @property
    def landing(self) -> Path:
        """Files that wait to be ingested."""
        return self.home / "landing"

    @property
    def lake(self) -> Path:
        """Delta tables."""
        return self.home / "lake"

    @property
    def features(self) -> Path:
        """Feature rows, the Feast registry and online store, catalogue snapshots."""
        return self.home / "features"

    @property
    def journal(self) -> Path:
        """Events the service took, until ingest has them."""
        return self.home / "journal"

    @property
    def registry(self) -> Path:
        """Releases, the champion pointer, the audit log."""
        return self.home / "registry"

    @property
    def rules(self) -> Path:
        """The shop's rules file; it need not be there."""
        return self.home / (self.serving.rules or "rules.toml")

    @property
    def prefect(self) -> Path:
        """Prefect's own database and logs."""
        return self.home / "prefect"

    @property
    def reports(self) -> Path:
        """Pages and figures for people."""
        return self.home / "reports"


def load_settings(
    config: Path | None = None, *, home: Path | None = None, demo: bool | None = None
) -> Settings:
    """Read settings: arguments over environment over the file over defaults.

    Without `config`, AMALGAM_CONFIG names the file, if set. `home` is made absolute; nothing is
    created.

    Raises:
        SettingsError: the file is missing, not TOML, or holds an unknown key or a wrong value.
    """
    chosen = config or (Path(value) if (value := os.environ.get(CONFIG_VARIABLE)) else None)
    values: dict[str, Any] = _read_toml(chosen) if chosen else {}
    for forbidden in ("home", "demo"):
        if forbidden in values:
            raise SettingsError(
                f"{chosen}: '{forbidden}' is not set in a file; use {HOME_VARIABLE} or --demo"
            )
    values["home"] = (
        (home or Path(os.environ.get(HOME_VARIABLE) or DEFAULT_HOME)).expanduser().resolve()
    )
    values["demo"] = os.environ.get(DEMO_VARIABLE) == "1" if demo is None else demo
    try:
        return Settings.model_validate(values)
    except SettingsError as error:
        raise SettingsError(f"{chosen or 'settings'}: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise SettingsError(
            f"{chosen or 'settings'}: {name} = {first['input']!r}: {first['msg']}"
        ) from None


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise SettingsError(f"settings file {path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"settings file {path} is not TOML: {error}") from None
