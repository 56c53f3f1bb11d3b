"""The model server that answers, and how another one takes its place without a request that fails.

A new server starts beside the old one, has to embed a picture, and is then the one that is asked; the old one answers
what it was asked before, and is stopped. A server that ends by itself is started again in the same way.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from dinomill.errors import DinomillError, InputError, Interrupted, MachineError
from dinomill.serving.gateway.config import GatewayConfig
from dinomill.serving.gateway.picture import png
from dinomill.serving.gateway.upstream import Question, Reply, Unreachable, Upstream, Workers

logger = logging.getLogger(__name__)

_SECONDS_OF_TRUTH = 1.0  # for how long what workers said is repeated
_WATCH_SECONDS = 0.25
_RESTART_WINDOW = 600.0
_RESTART_PAUSE = 1.0  # after a start that failed; twice as long after each one that follows


class Member:
    """A server, and how many requests it has."""

    def __init__(self, upstream: Upstream, package: Path) -> None:
        self.upstream = upstream
        self.package = package
        self.asked = 0
        self.idle = asyncio.Event()
        self.idle.set()
        self.keeper: asyncio.Task[None] | None = None

    @contextlib.asynccontextmanager
    async def busy(self) -> AsyncIterator[Upstream]:
        """Within the block it has a request more."""
        self.asked += 1
        self.idle.clear()
        try:
            yield self.upstream
        finally:
            self.asked -= 1
            if not self.asked:
                self.idle.set()


class Fleet:
    """One server that answers, and now and then another that takes over.

    Args:
        make: Makes a server for a package, in a slot that is free; not started yet.
        config: Times.
        say: Takes lines for the user.
        moved: Called when a server that was started again turns out to be of another version.
    """

    def __init__(
        self,
        make: Callable[[Path], Upstream],
        config: GatewayConfig,
        say: Callable[[str], None] = print,
        moved: Callable[[], None] = lambda: None,
    ) -> None:
        self._make, self._config, self._say, self._moved = make, config, say, moved
        self.current: Member | None = None
        self._starting: Upstream | None = None
        self._changing = asyncio.Lock()
        self._draining: set[asyncio.Task[None]] = set()
        self._said: tuple[float, Workers] | None = None
        self._ends: list[float] = []
        self._stopping = False
        self.swaps = 0

    async def swap(self, package: Path) -> Upstream:
        """Let a package answer from now on; the one before it ends when it has answered what it was asked.

        Raises:
            DinomillError: When it does not start, or answers wrongly; the one before it goes on.
        """
        async with self._changing:
            member = await self._started(package)
            old, self.current, self._said = self.current, member, None
            if old is not None:
                self.swaps += 1
                task = asyncio.create_task(self._drain(old))
                self._draining.add(task)
                task.add_done_callback(self._draining.discard)
            return member.upstream

    async def _started(self, package: Path) -> Member:
        upstream = await asyncio.to_thread(self._make, package)
        if self.current is not None and upstream.model != self.current.upstream.model:
            raise InputError(
                f"{package} holds another model, which clients would not find.",
                found=upstream.model,
                expected=self.current.upstream.model,
                action="serve it on another port",
            )
        self._starting = upstream
        if self._stopping:
            upstream.interrupt()
        try:
            await asyncio.to_thread(upstream.start, self._config.ready_seconds)
        finally:
            self._starting = None
        try:
            await _require_right(upstream, self._config.ready_seconds)
        except BaseException:
            await asyncio.to_thread(upstream.stop)
            raise
        member = Member(upstream, package)
        member.keeper = asyncio.create_task(upstream.keep())
        return member

    async def ask(self, question: Question) -> tuple[Reply, Upstream | None]:
        """A prediction, by whichever server answers now, and which one that was.

        A server that cannot be reached may have been replaced in between: then its successor is asked.
        """
        seconds = self._config.answer_seconds
        while (member := self.current) is not None:
            try:
                async with member.busy() as upstream:
                    return await upstream.predict(question, seconds), upstream
            except TimeoutError:
                return _error(504, f"The request was not answered within {seconds:g} seconds."), member.upstream
            except Unreachable as error:
                if self.current is member:
                    logger.warning("request %s: the server behind does not answer: %s", question.request_id, error)
                    return _error(503, "The server does not answer at the moment. Send it again."), member.upstream
        return _error(503, "The server is starting. Send it again."), None

    async def workers(self) -> Workers:
        """What the answering server says about its workers, at most a second old."""
        now = time.monotonic()
        if self._said is not None and now - self._said[0] < _SECONDS_OF_TRUTH:
            return self._said[1]
        member = self.current
        found = Workers(0, 1 if self._said is None else self._said[1].wanted)
        if member is not None:
            with contextlib.suppress(Unreachable, TimeoutError):
                found = await member.upstream.workers()
        self._said = (now, found)
        return found

    async def watch(self) -> None:
        """Start a server again that ended by itself.

        Raises:
            MachineError: When it keeps ending, or cannot be started again.
        """
        pause = _WATCH_SECONDS
        while True:
            await asyncio.sleep(pause)
            member, pause = self.current, _WATCH_SECONDS
            if member is None or member.upstream.running() or self._changing.locked():
                continue
            version, now = member.upstream.version, time.monotonic()
            self._ends = [*(end for end in self._ends if now - end < _RESTART_WINDOW), now]
            failure = member.upstream.failure(f"The server of version {version} ended by itself.")
            if len(self._ends) > self._config.restarts:
                raise failure
            logger.error("%s", failure)
            self._say(f"The server of version {version} ended by itself: it is started again.")
            try:
                problem = await self._again(member)
            except Interrupted:
                return
            if problem is None:
                continue
            if len(self._ends) >= self._config.restarts:
                raise MachineError(
                    f"It could not be started again: {problem.problem}", found=problem.found, action=problem.action
                ) from problem
            pause = _RESTART_PAUSE * 2 ** (len(self._ends) - 1)
            self._say(f"It could not be started again: {problem.problem} It is tried once more in {pause:g} s.")

    async def _again(self, member: Member) -> DinomillError | None:
        """Start a server again that ended; what went wrong, if it did not start."""
        before = member.upstream
        try:
            served = await self.swap(member.package)
        except Interrupted:
            raise
        except DinomillError as error:
            logger.error("version %s could not be started again: %s", before.version, error)
            return error
        if served.archive_sha256 != before.archive_sha256:
            self._say(
                f"Version {before.version} is not in {member.package} any more: version {served.version} answers now."
            )
            self._moved()
        return None

    def interrupt(self) -> None:
        """Make a server that is starting give up."""
        self._stopping = True
        if self._starting is not None:
            self._starting.interrupt()

    async def close(self) -> None:
        """Stop all servers."""
        self.interrupt()
        async with self._changing:
            for task in self._draining:
                task.cancel()
            await asyncio.gather(*self._draining, return_exceptions=True)
            if self.current is not None:
                await self._stop(self.current)
                self.current = None

    async def _drain(self, member: Member) -> None:
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(member.idle.wait(), self._config.drain_seconds)
        finally:
            await self._stop(member)

    async def _stop(self, member: Member) -> None:
        if member.keeper is not None:
            member.keeper.cancel()
        await asyncio.shield(asyncio.to_thread(member.upstream.stop))


async def _require_right(upstream: Upstream, seconds: float) -> None:
    """Have a picture embedded."""
    try:
        reply = await upstream.predict(
            Question(png(), "application/octet-stream", "application/json", "trial"), seconds
        )
    except (Unreachable, TimeoutError) as error:
        raise MachineError(f"Version {upstream.version} does not answer.", found=str(error)) from None
    width, channels = upstream.limits()["embed_dim"], upstream.limits()["channels"]
    try:
        said = json.loads(reply.body)
        if channels in (1, 3):
            vector = said["embedding"]
            right = reply.status == 200 and len(vector) == width and all(math.isfinite(value) for value in vector)
        else:  # no small picture has such channels: it refuses this one, and says why
            right = reply.status == 400 and bool(said["error"])
    except (ValueError, KeyError, TypeError):
        right = False
    if not right:
        raise MachineError(
            f"Version {upstream.version} does not embed a picture as it should.",
            found=f"HTTP {reply.status}: {reply.body[:200].decode(errors='replace')}",
            expected=f"an embedding of {width} numbers",
        )


def _error(status: int, message: str) -> Reply:
    return Reply(status, json.dumps({"error": message}).encode())
