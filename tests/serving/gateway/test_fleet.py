"""How a server that ended is started again, with servers that only say what they would be."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from dinomill.errors import DinomillError, InputError, MachineError
from dinomill.serving.gateway import fleet as at_work
from dinomill.serving.gateway.config import GatewayConfig
from dinomill.serving.gateway.fleet import Fleet
from dinomill.serving.gateway.upstream import Question, Reply, Unreachable, Upstream, Workers


class Told:
    """A server that starts, embeds and ends as it is told."""

    model = "mill"
    offers = ("embedding",)
    about: Mapping[str, Mapping[str, Any]] = {}

    def __init__(self, version: str, problem: DinomillError | None = None) -> None:
        self.version, self.archive_sha256, self._problem = version, f"sha256 of {version}", problem
        self.alive = False

    def start(self, seconds: float) -> float:
        if self._problem is not None:
            raise self._problem
        self.alive = True
        return seconds

    def stop(self) -> None:
        self.alive = False

    def interrupt(self) -> None: ...

    def running(self) -> bool:
        return self.alive

    def failure(self, problem: str) -> MachineError:
        return MachineError(problem)

    async def predict(self, question: Question, seconds: float) -> Reply:
        return Reply(200, json.dumps({"embedding": [1.0, 2.0]}).encode())

    async def workers(self) -> Workers:
        if not self.alive:
            raise Unreachable("it ended")
        return Workers(2, 2)

    async def metrics(self) -> bytes:
        return b""

    async def keep(self) -> None: ...

    def limits(self) -> Mapping[str, int | float]:
        return {"embed_dim": 2, "channels": 3}


class Watched:
    """A fleet whose servers are made one after the other; `said` and `moved` are what was told of it."""

    def __init__(self, *servers: Told | DinomillError, restarts: int = 3) -> None:
        self._servers = list(servers)
        self.said: list[str] = []
        self.moved: list[str] = []
        config = GatewayConfig(restarts=restarts)
        self.fleet = Fleet(self._make, config, self.said.append, lambda: self.moved.append(self.current.version))

    def _make(self, _package: Path) -> Upstream:
        made = self._servers.pop(0)
        if isinstance(made, DinomillError):
            raise made
        return made

    @property
    def current(self) -> Told:
        assert self.fleet.current is not None
        found = self.fleet.current.upstream
        assert isinstance(found, Told)
        return found

    def run(self, test: Callable[[], Awaitable[None]]) -> None:
        async def within() -> None:
            await self.fleet.swap(Path("package"))
            watching = asyncio.create_task(self.fleet.watch())
            told = asyncio.create_task(test())  # type: ignore[arg-type]
            try:
                done, _ = await asyncio.wait([watching, told], return_when=asyncio.FIRST_COMPLETED, timeout=20)
                for task in done:
                    task.result()
                assert done
            finally:
                for task in (watching, told):
                    task.cancel()
                await asyncio.gather(watching, told, return_exceptions=True)
                await self.fleet.close()

        asyncio.run(within())

    async def dies_and_answers_again(self) -> None:
        before = self.current
        before.alive = False
        end = time.monotonic() + 10
        while self.current is before:
            assert time.monotonic() < end
            await asyncio.sleep(0.01)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(at_work, "_WATCH_SECONDS", 0.01)
    monkeypatch.setattr(at_work, "_RESTART_PAUSE", 0.01)
    monkeypatch.setattr(at_work, "_SECONDS_OF_TRUTH", 0.0)


def test_it_is_started_again_as_the_same_version() -> None:
    watched = Watched(Told("3"), Told("3"))
    watched.run(watched.dies_and_answers_again)
    assert watched.moved == []
    assert watched.said == ["The server of version 3 ended by itself: it is started again."]


def test_another_version_is_said_and_noted() -> None:
    """What was packaged meanwhile lies in the folder that the server was started from."""
    watched = Watched(Told("3"), Told("4"))
    watched.run(watched.dies_and_answers_again)
    assert watched.moved == ["4"]
    assert "Version 3 is not in package any more: version 4 answers now." in watched.said


def test_a_start_that_fails_is_tried_again() -> None:
    problem = MachineError("TorchServe was not ready after 180 s.")
    watched = Watched(Told("3"), InputError("There is no package."), Told("3", problem), Told("3"))
    watched.run(watched.dies_and_answers_again)
    assert sum("It could not be started again" in line for line in watched.said) == 2
    assert "There is no package." in "".join(watched.said)


def test_after_as_many_as_are_allowed_it_gives_up_and_says_why() -> None:
    problem = MachineError("The disk is full.", action="make room")
    watched = Watched(Told("3"), *(Told("3", problem) for _ in range(3)))
    with pytest.raises(MachineError, match=r"could not be started again: The disk is full(.|\n)*make room"):
        watched.run(watched.dies_and_answers_again)
    never = Watched(Told("3"), restarts=0)
    with pytest.raises(MachineError, match="ended by itself"):
        never.run(never.dies_and_answers_again)


def test_workers_that_are_gone_are_counted_as_none_of_those_that_should_be() -> None:
    watched = Watched(Told("3"), restarts=0)

    async def dies() -> None:
        assert await watched.fleet.workers() == (2, 2)
        watched.current.alive = False
        assert await watched.fleet.workers() == (0, 2)

    watched.run(dies)
