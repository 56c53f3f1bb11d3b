"""HTTP that slow, endless and silent clients cannot hold on to: uvicorn's protocol with bounds that it has not.

What is no request that can be read is handed to the application all the same (`bodies.REFUSED`), which answers, counts
and writes it down as every other.
"""

from __future__ import annotations

import asyncio
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from dinomill.serving.gateway.bodies import REFUSED
from dinomill.serving.gateway.config import GatewayConfig

_HEAD_BYTES = 32 * 1024  # of a request's line, headers, and what follows a chunked body
# A read brings up to 256 kB. The parser gets less at a time, so that what it keeps can be counted in between.
_PIECE_BYTES = 16 * 1024
_MOST_AHEAD = 16  # requests that wait on one connection for the answers before theirs; no client of ours sends ahead
_TOO_LARGE = (431, "The headers of the request are too large.")
_UNREADABLE = (400, "The request is not HTTP that can be read.")
_FRAMING = (b"content-length", b"transfer-encoding")
_NO_CODING = (501, "No Transfer-Encoding but chunked is undone here.")
_NO_PROXY = (405, "This is no proxy: there is no CONNECT.")


def bounded(config: GatewayConfig) -> type[HttpToolsProtocol]:
    """The protocol, with a configuration's bounds."""

    class Bounded(BoundedProtocol):
        header_seconds = config.header_seconds
        stall_seconds = config.stall_seconds
        most_connections = config.connections

    return Bounded


class _NotTaken(Exception):
    """More than is taken, or another kind; the parser hands it on as an error of the request."""


class BoundedProtocol(HttpToolsProtocol):
    """One connection: its headers come soon and are small, and its answers are read."""

    header_seconds = 10.0
    stall_seconds = 30.0
    most_connections = 512

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_head = True
        self._open = False  # whether a request has begun that is not whole
        self._again = False  # whether the parser reads the framing of a head that it has read
        self._why = _UNREADABLE  # what is said when the parser does not go on
        self._broken = False  # whether what came could not be read: the rest is of no use
        self._kept_bytes = 0  # of the head, and of what follows a chunked body
        self._heard = False  # whether the parser said something of the piece that it got
        self._silent_bytes = 0  # since it last did: half a header, for example, which it keeps
        self._late: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None

    # The connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        if len(self.connections) > self.most_connections:
            transport.abort()
            return
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timers."""
        for timer in (self._late, self._stalled):
            if timer is not None:
                timer.cancel()
        self._late = self._stalled = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse, unless headers or what follows a body are endless."""
        for start in range(0, len(data), _PIECE_BYTES):
            if self._broken or self.transport.is_closing():
                return
            piece = data[start : start + _PIECE_BYTES]
            self._heard = False
            self._parse(piece)
            self._silent_bytes = 0 if self._heard else self._silent_bytes + len(piece)
            if self._silent_bytes > _HEAD_BYTES:
                self._refuse(*_TOO_LARGE)
        if not self._open and self._is_idle() and self._late is None:
            self._late = self._later(self.header_seconds)  # line ends alone are no request, and keep nothing open

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """The client sends no more: what it asked whole is answered, then the connection ends."""
        cut = self._open and not self._in_head and not self._broken
        if self._is_idle() or cut:
            return False
        self.cycle.keep_alive = False
        self._in_time()  # half a head that may have begun will never be whole
        return True

    def _parse(self, data: bytes) -> None:
        """Give the parser what came; after the head of who offers another protocol, that request's framing again.

        The parser takes all that follows for that protocol, but it is still the body, and never a next request.
        """
        self._unset_keepalive_if_required()
        while data:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as offer:
                self._again = True
                data = self._framing() + data[offer.args[0] :]
            except httptools.HttpParserError:
                self.send_400_response("")
                return
            else:
                return

    def _framing(self) -> bytes:
        """A head that has the same body as the one that was read."""
        framing = [b"%s: %s\r\n" % header for header in self.headers if header[0] in _FRAMING]
        return b"POST / HTTP/1.1\r\n" + b"".join(framing) + b"\r\n"

    def _should_upgrade(self) -> bool:
        return False

    # What the parser says

    def on_message_begin(self) -> None:
        """A request begins: its headers have to come soon."""
        if self._again:
            return
        super().on_message_begin()
        self._open, self._kept_bytes = True, 0
        self._await_head()

    def on_url(self, url: bytes) -> None:
        """Take a part of the address."""
        if self._again:
            return
        self._keep(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; what follows a chunked body is none."""
        if self._again:
            return
        self._keep(len(name) + len(value) + 4)  # a colon, a space, the end of the line
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The headers came in time; of too many requests ahead, those before it are answered, and no more taken."""
        if self._again:
            self._again = False
            return
        if len(self.pipeline) >= _MOST_AHEAD:
            raise _NotTaken
        self._refuse_kinds()
        self._heard = True
        self._in_time()
        super().on_headers_complete()
        self._in_head = False  # not before: where the address cannot be read there is no request to answer yet

    def _refuse_kinds(self) -> None:
        """What can be read, and is not done here."""
        codings = b",".join(value for name, value in self.headers if name == b"transfer-encoding")
        if self.parser.get_method() == b"CONNECT":
            self._why = _NO_PROXY
        elif codings.strip().lower() not in (b"", b"chunked"):
            self._why = _NO_CODING
        if self._why != _UNREADABLE:
            raise _NotTaken

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._heard = True
        super().on_body(body)

    def on_chunk_header(self) -> None:
        """A part of a chunked body begins, or ended."""
        self._heard = True

    on_chunk_complete = on_chunk_header

    def on_message_complete(self) -> None:
        """The request is whole; where another protocol is offered the parser says so too early."""
        if self.parser.should_upgrade():
            return
        self._open, self._heard = False, True
        self._in_time()
        super().on_message_complete()

    def _keep(self, size: int) -> None:
        self._heard = True
        self._kept_bytes += size
        if self._kept_bytes > _HEAD_BYTES:
            raise _NotTaken

    # What cannot be read

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002  # uvicorn's own words are no answer of ours
        """Refuse what the parser did not take."""
        self._refuse(*(_TOO_LARGE if self._kept_bytes > _HEAD_BYTES else self._why))

    def _refuse(self, status: int, reason: str) -> None:
        self._broken = True
        of_body = self._open and not self._in_head
        if not self._is_idle():
            self.cycle.keep_alive = False
            if of_body:  # it ends here; who reads it is told that it is none
                self.cycle.scope[REFUSED] = (status, reason)  # type: ignore[literal-required]
                self.cycle.more_body = False
                self.cycle.message_event.set()
        elif of_body:  # its request has been answered
            self.transport.close()
        else:
            self._answer_alone(status, reason)

    def _answer_alone(self, status: int, reason: str) -> None:
        """Let the application say why there is no request."""
        HttpToolsProtocol.on_message_begin(self)  # a scope without anything of what came
        unread: dict[str, Any] = {"method": "", "path": "", "raw_path": b"", "query_string": b""}
        self.scope.update({**unread, REFUSED: (status, reason)})  # type: ignore[typeddict-item]
        self.cycle = RequestResponseCycle(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=False,
            on_response=self.on_response_complete,
        )
        self.cycle.more_body = False
        self.cycle.message_event.set()
        self._in_time()
        self._start_asgi_task(self.cycle, self.app)

    # Clients that do not read

    def on_response_complete(self) -> None:
        """An answer was written: it has to be read, and a body that nobody waits for has to end."""
        self._watch_reading()
        super().on_response_complete()
        if self._open and self._is_idle() and self._late is None and not self.transport.is_closing():
            self._late = self._later(self.header_seconds)

    def pause_writing(self) -> None:
        """The client does not read: it has some time to go on."""
        super().pause_writing()
        if self._stalled is None:
            self._stalled = self.loop.call_later(self.stall_seconds, self._cut_stalled)

    def resume_writing(self) -> None:
        """It reads again."""
        super().resume_writing()
        self._watch_reading()

    def _watch_reading(self) -> None:
        """Give what is still to be read its time; closing a connection waits for that, and would do so for ever."""
        if self.flow.write_paused:
            return
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
        if self.transport.get_write_buffer_size():
            self._stalled = self.loop.call_later(self.stall_seconds, self._cut_stalled)

    def _cut_stalled(self) -> None:
        self._stalled = None
        if self.transport.get_write_buffer_size():
            self.transport.abort()

    # Time

    def _is_idle(self) -> bool:
        """Whether all that was asked is answered."""
        return self.cycle is None or self.cycle.response_complete

    def _await_head(self) -> None:
        self._in_head = self._heard = True
        if self._late is None:
            self._late = self._later(self.header_seconds)

    def _in_time(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _later(self, seconds: float) -> asyncio.TimerHandle:
        return self.loop.call_later(seconds, self.transport.abort)
