from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dinomill.errors import InputError, Interrupted
from dinomill.serving.gateway import find as at_work
from dinomill.serving.gateway.find import Find, find_package


def _stopped_after(seconds: float, find: Find) -> float:
    """How long it took to stop waiting."""

    async def within() -> float:
        ended = asyncio.Event()
        asyncio.get_running_loop().call_later(seconds, ended.set)
        began = time.monotonic()
        with pytest.raises(Interrupted):
            await find_package(find, ended)
        return time.monotonic() - began

    return asyncio.run(within())


def test_what_is_found_or_goes_wrong_comes_back() -> None:
    def refuses(_go_on: Callable[[], None]) -> Path:
        raise InputError("There is no package.")

    async def within() -> None:
        assert await find_package(lambda _: Path("package"), asyncio.Event()) == Path("package")
        with pytest.raises(InputError, match="no package"):
            await find_package(refuses, asyncio.Event())

    asyncio.run(within())


def test_what_goes_on_is_told_to_stop_and_has_time_to_remove_what_it_began() -> None:
    removed = threading.Event()

    def fetches(go_on: Callable[[], None]) -> Path:
        try:
            while True:
                go_on()
                time.sleep(0.01)
        finally:
            time.sleep(0.2)
            removed.set()

    assert _stopped_after(0.1, fetches) < at_work._UNWIND_SECONDS
    assert removed.is_set()


def test_what_hangs_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a store that does not answer lets it."""
    monkeypatch.setattr(at_work, "_UNWIND_SECONDS", 0.2)
    answered = threading.Event()

    def hangs(_go_on: Callable[[], None]) -> Path:
        answered.wait(30)
        return Path("late")

    began = time.monotonic()
    _stopped_after(0.1, hangs)
    assert time.monotonic() - began < 10  # nor does the end of asyncio wait for it
    answered.set()
