"""Looking for the package to serve, which may mean to fetch it for minutes, beside all else and until told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dinomill.errors import Interrupted

# The folder of the package to serve now. What takes long calls its argument now and then, which raises `Interrupted`
# when nobody waits any more.
Find = Callable[[Callable[[], None]], Path]
_UNWIND_SECONDS = 3.0  # for what was begun to be removed


async def find_package(find: Find, ended: asyncio.Event) -> Path:
    """The folder, unless told to stop meanwhile.

    A thread that waits for a store that does not answer cannot be ended. It is one that the process does not wait for
    at its end either, as it would for asyncio's own.

    Raises:
        Interrupted: When told to stop.
        DinomillError: What ``find`` raises.
    """
    stop, loop = threading.Event(), asyncio.get_running_loop()
    found: asyncio.Future[Path | BaseException] = loop.create_future()

    def go_on() -> None:
        if stop.is_set():
            raise Interrupted("The package is not waited for any more.")

    def tell(result: Path | BaseException) -> None:
        if not found.done():
            found.set_result(result)

    def look() -> None:
        result: Path | BaseException
        try:
            result = find(go_on)
        except BaseException as error:
            result = error
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(tell, result)

    threading.Thread(target=contextvars.copy_context().run, args=(look,), name="find", daemon=True).start()
    told: asyncio.Future[Any] = asyncio.create_task(ended.wait())
    either: list[asyncio.Future[Any]] = [told, found]
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not found.done():
            stop.set()
            await asyncio.wait([found], timeout=_UNWIND_SECONDS)
            raise Interrupted("Told to stop.")
    finally:
        stop.set()
        told.cancel()
    result = found.result()
    if isinstance(result, BaseException):
        raise result
    return result
