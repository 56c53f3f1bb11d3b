"""HTTP that slow, endless and silent clients cannot hold on to: uvicorn's protocol with bounds that it has not."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from dinomill.serving.gateway.config import GatewayConfig

_HEAD_BYTES = 32 * 1024  # of a request's line and headers
_REASON = b'{"error": "The headers of the request are too large."}'
_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/json\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n%b" % (len(_REASON), _REASON)
)


def bounded(config: GatewayConfig) -> type[HttpToolsProtocol]:
    """The protocol, with a configuration's bounds."""

    class Bounded(BoundedProtocol):
        header_seconds = config.header_seconds
        stall_seconds = config.stall_seconds
        most_connections = config.connections

    return Bounded


class BoundedProtocol(HttpToolsProtocol):
    """One connection: its headers come soon and are small, and its answers are read."""

    header_seconds = 10.0
    stall_seconds = 30.0
    most_connections = 512

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_head = True
        self._head_bytes = 0
        self._late: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        if len(self.connections) > self.most_connections:
            transport.abort()
            return
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timers."""
        self._forget()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse, unless the headers are endless."""
        super().data_received(data)
        if self._in_head:  # still: all of it was headers
            self._head_bytes += len(data)
            if self._head_bytes > _HEAD_BYTES and not self.transport.is_closing():
                self.transport.write(_TOO_LARGE)
                self.transport.close()

    def on_message_begin(self) -> None:
        """A request begins: its headers have to come soon."""
        super().on_message_begin()
        self._await_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; what follows a chunked body is none."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The headers came in time."""
        self._in_head, self._head_bytes = False, 0
        if self._late is not None:
            self._late.cancel()
            self._late = None
        super().on_headers_complete()

    def pause_writing(self) -> None:
        """The client does not read: it has some time to go on."""
        super().pause_writing()
        if self._stalled is None:
            self._stalled = self._later(self.stall_seconds)

    def resume_writing(self) -> None:
        """It reads again."""
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _await_head(self) -> None:
        self._in_head = True
        if self._late is None:
            self._late = self._later(self.header_seconds)

    def _later(self, seconds: float) -> asyncio.TimerHandle:
        return self.loop.call_later(seconds, self.transport.abort)

    def _forget(self) -> None:
        for timer in (self._late, self._stalled):
            if timer is not None:
                timer.cancel()
        self._late = self._stalled = None
