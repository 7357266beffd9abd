"""What releases other than the champion would answer."""

import threading
from collections.abc import Callable, Sequence

from contracts.wire_compare import ListedRelease
from services.engine import Engine, Release
from services.holder import EngineMaker


class OtherReleases:
    """Loads a release that is asked for, beside the one that is served; the last one is kept.

    A release's arrays are mapped from its files, so that keeping it costs little memory.
    """

    def __init__(
        self,
        listed: Callable[[], Sequence[ListedRelease]],
        load_release: Callable[[str], Release],
        make_engine: EngineMaker,
    ) -> None:
        self.listed = listed
        self._load_release = load_release
        self._make_engine = make_engine
        self._loading = threading.Lock()
        self._release: Release | None = None
        self._engine: Engine | None = None

    def engine(self, version: str, beside: Engine) -> Engine:
        """Return the engine of a release on the snapshot of the engine that is served.

        Raises:
            NotFoundError: there is no such release.
            CorruptError: it is damaged.
        """
        if version == beside.version:
            return beside
        with self._loading:
            if self._release is None or self._release.version != version:
                self._release, self._engine = self._load_release(version), None
            if self._engine is None or self._engine.snapshot != beside.snapshot:
                self._engine = self._make_engine(self._release, beside.shelf, beside.rules)
            return self._engine
