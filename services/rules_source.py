"""Where the shop's rules come from: one file, watched, of which the last good state is kept."""

import logging
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from contracts import atomic
from contracts.errors import SettingsError
from contracts.rules_file import RulesFile, ScenarioRules
from contracts.settings import Settings
from services.audit import Audit
from services.rules import NO_RULES, Rules, digest_of, read_rules

log = logging.getLogger(__name__)

GOOD_COPY: Final = "rules.good.toml"
AUDIT: Final = "rules.jsonl"
_UNREADABLE: Final = "unreadable"


class RulesSource:
    """The shop's rules file, watched: a bad file never replaces a good one, across restarts too.

    The last file that was good is kept as a copy, which holds while the file is bad. Where there is
    no file, there are no rules.

    path  the shop's file        kept  folder of the copy        shop  values of the settings
    """

    def __init__(self, path: Path, kept: Path, shop: ScenarioRules) -> None:
        self.path = path
        self._copy = kept / GOOD_COPY
        self.shop = shop
        self._seen: tuple[Any, str] | None = None

    def wanted(self) -> str:
        """Return the digest of the file as it lies there, NO_RULES without one."""
        try:
            stat = self.path.stat()
            mark = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if self._seen is None or self._seen[0] != mark:
                self._seen = (mark, digest_of(self.path.read_bytes()))
        except FileNotFoundError:
            return NO_RULES
        except OSError:
            return _UNREADABLE
        return self._seen[1]

    def read(self) -> Rules:
        """Return the rules that the file says, or where it is bad the last good ones (`error`)."""
        return self._read()[0]

    def load(self, wanted: str) -> Rules:
        """Return what is to be used for a file that is `wanted`; keep a good one as the copy."""
        rules, data = self._read()
        if rules.error is not None:
            log.error("rules file %s is not in use: %s", wanted, rules.error)
        else:
            try:
                self._keep(data)
            # E.g. a full disk: the good file itself still holds.
            except OSError:
                log.exception("rules file %s: the copy to fall back on is not renewed", wanted)
        return rules

    def publish(self, data: bytes) -> None:
        """Put a good file's bytes in the place of the shop's, atomically."""
        self._keep(data)
        atomic.write_bytes(self.path, data)

    def _keep(self, data: bytes | None) -> None:
        """Make the copy what the file is; None, there is no file: withdrawn rules stay withdrawn,
        also when a bad file follows.
        """
        if data is None:
            self._copy.unlink(missing_ok=True)
        elif not self._copy.is_file() or self._copy.read_bytes() != data:
            atomic.write_bytes(self._copy, data)

    def _read(self) -> tuple[Rules, bytes | None]:
        """Return the rules, and the bytes of the file that they are read from; None without one."""
        try:
            data = self.path.read_bytes()
            return read_rules(data, str(self.path), self.shop), data
        except FileNotFoundError:
            return Rules.of(RulesFile(), NO_RULES, self.shop), None
        except (SettingsError, OSError) as error:
            return replace(self._last_good(), error=str(error)), None

    def _last_good(self) -> Rules:
        try:
            return read_rules(self._copy.read_bytes(), str(self._copy), self.shop)
        except FileNotFoundError:
            return Rules.of(RulesFile(), NO_RULES, self.shop)


def rules_source(settings: Settings) -> RulesSource:
    """Return where an installation's rules come from."""
    serving = settings.serving
    shop = ScenarioRules(new_item_share=serving.new_item_share, new_item_days=serving.new_item_days)
    return RulesSource(settings.rules, settings.features, shop)


def publish_rules(settings: Settings, file: Path, *, who: str, why: str, now: datetime) -> Rules:
    """Check a file and put it in the place of the shop's rules, atomically; return what it says.

    Who, when, why and the file's text go into registry/rules.jsonl: answers name the digest of
    their rules, which can be read there for ever.

    Raises:
        SettingsError: something is wrong with it; the rules that are there stay.
    """
    from filelock import FileLock

    rules, data = _read(settings, file)
    settings.registry.mkdir(parents=True, exist_ok=True)
    with FileLock(settings.registry / ".rules.lock"):
        rules_source(settings).publish(data)
        Audit(settings.registry / AUDIT).append({
            "digest": rules.digest,
            "at": now.isoformat(),
            "who": who,
            "why": why,
            "text": data.decode(),
        })
    return rules


def check_rules(settings: Settings, file: Path) -> Rules:
    """Read a rules file as the service would; SettingsError says what is wrong."""
    return _read(settings, file)[0]


def _read(settings: Settings, file: Path) -> tuple[Rules, bytes]:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise SettingsError(f"rules file {file} cannot be read: {error.strerror}") from None
    return read_rules(data, str(file), rules_source(settings).shop), data
