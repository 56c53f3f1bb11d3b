"""Bodies of requests: read whole, within a size, a time, and the memory that all of them may take together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.requests import ClientDisconnect, Request

REFUSED = "dinomill.refused"  # in a scope: status and reason, where what came is no request that can be read
_LINGER_SECONDS = 5.0  # for a body that is refused: who is cut off while sending never reads why
_LINGER_BYTES = 64 * 2**20


class Refused(Exception):
    """A request that is not forwarded.

    Args:
        status: Of HTTP.
        reason: For the client.
        close: Whether the connection ends with the answer, since the body was not read.
    """

    def __init__(self, status: int, reason: str, *, close: bool = False) -> None:
        super().__init__(reason)
        self.status, self.reason, self.close = status, reason, close


class Held:
    """The memory that bodies of requests and of answers take at the moment.

    Args:
        most: Bytes.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken = 0

    @contextmanager
    def account(self) -> Iterator[Account]:
        """Within the block a request's bytes count."""
        account = Account(self)
        try:
            yield account
        finally:
            account.free()

    def take(self, size: int) -> None:
        """Count bytes.

        Raises:
            Refused: When there are too many; the client may come again.
        """
        if self._taken and self._taken + size > self._most:  # one alone may be as large as it was allowed to be
            raise Refused(503, "The server holds as many requests as it can. Send it again.", close=True)
        self._taken += size

    def free(self, size: int) -> None:
        """Bytes that are no longer there."""
        self._taken -= size


class Account:
    """What one request takes of it."""

    def __init__(self, held: Held) -> None:
        self._held = held
        self.bytes = 0

    def take(self, size: int) -> None:
        """Count bytes of this request."""
        self._held.take(size)
        self.bytes += size

    def free(self) -> None:
        """Nothing of this request is held any more."""
        self._held.free(self.bytes)
        self.bytes = 0


async def read_body(request: Request, most: int, seconds: float, account: Account) -> bytearray:
    """The whole body, once in memory: put together of parts it would be there twice.

    Args:
        request: Of which nothing was read.
        most: Bytes that a body may have.
        seconds: How long it may take to arrive.
        account: Takes its size.

    Raises:
        Refused: 413, 408 or 503, when it is too large, too slow, or there is no memory for it.
        ClientDisconnect: When the client went away.
    """
    said = request.headers.get("content-length")
    too_large = Refused(413, f"The request is larger than {most / 2**20:g} MB.", close=True)
    if said is not None and int(said) > most:
        await _linger(request)
        raise too_large
    body, too_many = bytearray(), False
    try:
        async with asyncio.timeout(seconds):
            async for part in request.stream():
                if len(body) + len(part) > most:
                    too_many = True
                    break
                account.take(len(part))
                body += part
    except TimeoutError:
        raise Refused(408, f"The request did not arrive within {seconds:g} seconds.", close=True) from None
    except Refused:
        body.clear()
        await _linger(request)
        raise
    refuse_unreadable(request)
    if too_many:
        body.clear()
        await _linger(request)
        raise too_large
    return body


def refuse_unreadable(request: Request) -> None:
    """Refuse what the connection could not read, of the head or of the body so far.

    Raises:
        Refused: 400, 405, 431 or 501.
    """
    if (found := request.scope.get(REFUSED)) is not None:
        raise Refused(*found, close=True)


async def refuse_unread(request: Request, refused: Refused) -> Refused:
    """The same, once the client has sent its body, or has had the time to."""
    if request.headers.get("content-length", "0") == "0" and "transfer-encoding" not in request.headers:
        return refused
    await _linger(request)
    return Refused(refused.status, refused.reason, close=True)


async def _linger(request: Request) -> None:
    """Take what a client sends and drop it, for a while."""
    if request.headers.get("expect", "").lower() == "100-continue":
        return  # it waits for leave, and is told that there is none
    end, size = time.monotonic() + _LINGER_SECONDS, 0
    while size < _LINGER_BYTES:
        try:
            async with asyncio.timeout(max(0.0, end - time.monotonic())):
                message = await request.receive()
        except TimeoutError:
            return
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        size += len(message.get("body", b""))
        if not message.get("more_body", False):
            return
