"""Trainings never overlap, whoever starts them: a command knows nothing of Prefect's limits."""

import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
from filelock import FileLock

from contracts.errors import UnavailableError
from contracts.settings import Settings
from flows import pipeline
from flows.steps import training

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def locked(settings: Settings) -> bool:
    """Say whether somebody trains."""
    lock = FileLock(settings.features / "training.lock")
    try:
        with lock.acquire(timeout=0):
            return False
    except TimeoutError:
        return True


def test_the_second_waits_for_the_first(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, demo=True)
    order: list[str] = []

    def second() -> None:
        with training.alone(settings, wait_seconds=20):
            order.append("second")

    with training.alone(settings):
        waiting = threading.Thread(target=second)
        waiting.start()
        waiting.join(timeout=0.3)
        assert waiting.is_alive()
        order.append("first")
    waiting.join(timeout=20)
    assert order == ["first", "second"]
    assert not locked(settings)


def test_one_that_waited_too_long_says_so(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, demo=True)
    with (
        training.alone(settings),
        pytest.raises(UnavailableError, match="another training ran for 0 s"),
    ):
        raised: list[BaseException] = []

        def other() -> None:
            try:
                with training.alone(settings, wait_seconds=0.1):
                    pass
            except UnavailableError as error:
                raised.append(error)

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        raise raised[0]


def test_the_flow_trains_alone_and_lets_go_when_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(home=tmp_path, demo=True)
    monkeypatch.setenv("AMALGAM_HOME", str(tmp_path))
    monkeypatch.setenv("AMALGAM_DEMO", "1")
    monkeypatch.delenv("AMALGAM_CONFIG", raising=False)

    def read(*_: object) -> None:
        assert locked(settings)
        raise RuntimeError("the disk is gone")

    monkeypatch.setattr(pipeline, "read_history", read)
    with pytest.raises(RuntimeError, match="the disk is gone"):
        pipeline.train.fn(now=NOW)
    assert not locked(settings)
