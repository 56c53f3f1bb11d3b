"""The bounds of a connection, with a small application, in this process."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import uvicorn
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from uvicorn.server import ServerState

from dinomill.serving.gateway.bodies import Refused, refuse_unreadable
from dinomill.serving.gateway.config import GatewayConfig
from dinomill.serving.gateway.protocol import bounded

_SECONDS = 0.5  # of every bound
_CONFIG = GatewayConfig(header_seconds=_SECONDS, stall_seconds=_SECONDS)
_POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
_CHUNKED = _POST + b"Transfer-Encoding: chunked\r\n\r\n"


class Application:
    """Answers each request with so many bytes; `read` tells of each how many bytes its body had, or its end."""

    def __init__(self, size: int = 2, *, reads: bool = True, seconds: float = 0) -> None:
        self.size, self.reads, self.seconds = size, reads, seconds
        self.read: list[object] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        try:
            refuse_unreadable(request)
            if self.reads:
                body = await request.body()
                refuse_unreadable(request)
                self.read.append(len(body))
            await asyncio.sleep(self.seconds)
            answer = Response(b"x" * self.size)
        except Refused as refused:
            self.read.append(refused.status)
            answer = Response(refused.reason, refused.status)
        except ClientDisconnect:
            self.read.append("gone")
            return
        await answer(scope, receive, send)


Ask = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


@contextlib.asynccontextmanager
async def listening(application: Application) -> AsyncIterator[tuple[Ask, ServerState]]:
    """A server whose connections hold little, so that what is not read waits in it."""
    config, state = uvicorn.Config(application, ws="none", lifespan="off", log_config=None), ServerState()

    class Small(bounded(_CONFIG)):  # type: ignore[misc]
        def connection_made(self, transport: Any) -> None:
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            super().connection_made(transport)

    server = await asyncio.get_running_loop().create_server(lambda: Small(config, state, {}), "127.0.0.1", 0)

    async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        one = socket.socket()
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        one.setblocking(False)
        await asyncio.get_running_loop().sock_connect(one, server.sockets[0].getsockname())
        return await asyncio.open_connection(sock=one, limit=1024)

    async with server:
        yield connect, state
        for connection in list(state.connections):
            connection.transport.abort()


def run(test: Callable[[Ask, ServerState], Awaitable[None]], application: Callable[[], Application]) -> Application:
    async def within() -> Application:
        made = application()
        async with listening(made) as (connect, state):
            await asyncio.wait_for(test(connect, state), 20)
        return made

    return asyncio.run(within())


async def _answer(reader: asyncio.StreamReader) -> bytes:
    with contextlib.suppress(ConnectionResetError):
        return await asyncio.wait_for(reader.read(2**20), 10)
    return b""


async def _all(reader: asyncio.StreamReader) -> bytes:
    """What comes until the connection ends."""
    answer = b""
    with contextlib.suppress(ConnectionResetError):
        while part := await asyncio.wait_for(reader.read(2**16), 5):
            answer += part
    return answer


async def _gone(state: ServerState, seconds: float = 5) -> None:
    end = time.monotonic() + seconds
    while state.connections:
        assert time.monotonic() < end
        await asyncio.sleep(0.02)


async def _send_on(writer: asyncio.StreamWriter, part: bytes, times: int) -> int:
    """How many parts were taken."""
    for number in range(times):
        try:
            writer.write(part)
            await asyncio.wait_for(writer.drain(), 5)
        except (ConnectionError, TimeoutError):
            return number
        await asyncio.sleep(0)
    return times


def test_what_follows_a_chunked_body_is_bounded() -> None:
    """The parser keeps it all, by adding to it: a connection without a token took memory and time without an end."""

    async def one_that_does_not_end(connect: Ask, state: ServerState) -> None:
        _, writer = await connect()
        writer.write(_CHUNKED + b"0\r\nX: ")
        assert await _send_on(writer, b"y" * 2**16, 400) < 400
        await _gone(state)

    async def many(connect: Ask, state: ServerState) -> None:
        _, writer = await connect()
        writer.write(_CHUNKED + b"0\r\n")
        assert await _send_on(writer, b"X: y\r\n" * 10_000, 400) < 400
        await _gone(state)

    async def an_extension(connect: Ask, state: ServerState) -> None:
        _, writer = await connect()
        writer.write(_CHUNKED + b"1;x=")
        assert await _send_on(writer, b"y" * 2**16, 400) < 400
        await _gone(state)

    for test in (one_that_does_not_end, many, an_extension):
        assert run(test, Application).read == [431]


def test_so_it_is_where_nobody_waits_for_the_body() -> None:
    """The request is answered already, and its body goes on."""

    async def endless(connect: Ask, state: ServerState) -> None:
        _, writer = await connect()
        writer.write(_CHUNKED + b"0\r\nX: ")
        assert await _send_on(writer, b"y" * 2**16, 400) < 400
        await _gone(state)

    async def dripping(connect: Ask, state: ServerState) -> None:
        _, writer = await connect()
        writer.write(_CHUNKED)
        for _ in range(100):
            writer.write(b"1\r\ny\r\n")
            await asyncio.sleep(0.05)
            if not state.connections:
                break
        await _gone(state)

    for test in (endless, dripping):
        run(test, lambda: Application(reads=False))


def test_a_large_head_is_refused_also_when_it_comes_at_once() -> None:
    async def at_once(connect: Ask, state: ServerState) -> None:
        reader, writer = await connect()
        writer.write(_POST + b"X: " + b"y" * 40_000 + b"\r\n\r\n")
        assert b" 431 " in await _answer(reader)
        await _gone(state)

    assert run(at_once, Application).read == [431]

    async def as_large_as_may_be(connect: Ask, state: ServerState) -> None:
        reader, writer = await connect()
        writer.write(_POST + b"X: " + b"y" * 32_000 + b"\r\nContent-Length: 3\r\n\r\nabc")
        assert b" 200 " in await _answer(reader)

    assert run(as_large_as_may_be, Application).read == [3]


def test_bodies_in_many_parts_are_none_the_worse() -> None:
    async def small_parts(connect: Ask, _state: ServerState) -> None:
        reader, writer = await connect()
        writer.write(_CHUNKED + b"1\r\ny\r\n" * 30_000 + b"0\r\nX: trailer\r\n\r\n")
        assert b" 200 " in await _answer(reader)

    async def large(connect: Ask, _state: ServerState) -> None:
        reader, writer = await connect()
        writer.write(_POST + b"Content-Length: 3000000\r\n\r\n" + b"y" * 3_000_000)
        assert b" 200 " in await _answer(reader)

    assert run(small_parts, Application).read == [30_000]
    assert run(large, Application).read == [3_000_000]


def test_line_ends_do_not_keep_a_connection() -> None:
    async def silent(connect: Ask, state: ServerState) -> None:
        _, writer = await connect()
        writer.write(_POST + b"Content-Length: 0\r\n\r\n")
        for _ in range(100):
            await asyncio.sleep(0.05)
            writer.write(b"\r\n")
            if not state.connections:
                break
        await _gone(state)

    run(silent, Application)


def test_who_does_not_read_is_cut_off_however_little_waits() -> None:
    """An answer below the 64 kB at which writing is paused; a connection that closes waits until it is read."""
    for last in (b"", b"Connection: close\r\n"):
        for size in (30_000, 200_000):

            async def deaf(connect: Ask, state: ServerState, last: bytes = last) -> None:
                _, writer = await connect()
                writer.write(_POST + last + b"Content-Length: 0\r\n\r\n")
                await asyncio.sleep(_SECONDS / 2)
                assert len(state.connections) == 1
                await _gone(state)

            run(deaf, lambda size=size: Application(size))  # type: ignore[misc]


def test_who_reads_is_not_cut_off() -> None:
    async def slow(connect: Ask, state: ServerState) -> None:
        reader, writer = await connect()
        for _ in range(3):
            writer.write(_POST + b"Content-Length: 0\r\n\r\n")
            await asyncio.sleep(_SECONDS * 0.8)
            await reader.readuntil(b"\r\n\r\n")
            assert len(await reader.readexactly(30_000)) == 30_000
        await asyncio.sleep(_SECONDS * 2)
        assert len(state.connections) == 1

    assert run(slow, lambda: Application(30_000)).read == [0, 0, 0]


def test_who_has_sent_all_and_says_so_is_answered() -> None:
    """As `nc -N` does."""

    async def half_closed(connect: Ask, state: ServerState) -> None:
        reader, writer = await connect()
        writer.write((_POST + b"Content-Length: 3\r\n\r\nabc") * 2)
        writer.write_eof()
        answer = b""
        while part := await asyncio.wait_for(reader.read(2**16), 5):
            answer += part
        assert answer.count(b"HTTP/1.1 200 OK") == 2
        await _gone(state)

    assert run(half_closed, lambda: Application(seconds=0.2)).read == [3, 3]

    async def cut(connect: Ask, state: ServerState) -> None:
        reader, writer = await connect()
        writer.write(_POST + b"Content-Length: 3\r\n\r\nab")
        writer.write_eof()
        assert await _answer(reader) == b""
        await _gone(state)

    assert run(cut, Application).read == ["gone"]

    async def with_half_a_head_after_it(connect: Ask, state: ServerState) -> None:
        reader, writer = await connect()
        writer.write(_POST + b"Content-Length: 0\r\n\r\nPOST / HT")
        writer.write_eof()
        assert b" 200 OK" in await _answer(reader)
        await _gone(state)

    assert run(with_half_a_head_after_it, lambda: Application(seconds=2 * _SECONDS)).read == [0]


def test_what_follows_a_request_does_not_take_its_answer() -> None:
    async def rubbish_after_it(connect: Ask, state: ServerState) -> None:
        reader, writer = await connect()
        writer.write(_POST + b"Content-Length: 3\r\n\r\nabcrubbish\r\n\r\n")
        answer = b""
        while part := await asyncio.wait_for(reader.read(2**16), 5):
            answer += part
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert answer.count(b"HTTP/1.1") == 1
        await _gone(state)

    assert run(rubbish_after_it, lambda: Application(seconds=0.2)).read == [3]


def test_a_body_that_cannot_be_read_is_refused() -> None:
    async def no_chunk(connect: Ask, state: ServerState) -> None:
        reader, writer = await connect()
        writer.write(_CHUNKED + b"3\r\nabc\r\nzz\r\n")
        assert b" 400 " in await _answer(reader)
        await _gone(state)

    assert run(no_chunk, Application).read == [400]


def test_requests_that_are_sent_ahead_are_bounded() -> None:
    """Each takes memory until it is its turn."""

    async def ahead(connect: Ask, state: ServerState) -> None:
        reader, writer = await connect()
        await _send_on(writer, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 1000, 20)
        (connection,) = state.connections
        assert len(connection.pipeline) <= 16
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while part := await asyncio.wait_for(reader.read(2**16), 5):
                answer += part
        assert answer.count(b"HTTP/1.1 200 OK") >= 1
        await _gone(state)

    assert len(run(ahead, lambda: Application(seconds=0.02)).read) == 17


_OFFER = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
_WITHIN = b"GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.parametrize("pause", [0, 0.2, 1])
@pytest.mark.parametrize("chunked", [False, True])
def test_who_offers_another_protocol_is_answered_in_this_one(chunked: bool, pause: float) -> None:
    """As `curl --http2` and Java do: what follows the head is the body, not what is spoken next."""
    size = len(_WITHIN)
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % size
    body = b"%x\r\n%s\r\n0\r\n\r\n" % (size, _WITHIN) if chunked else _WITHIN

    async def offering(connect: Ask, _state: ServerState) -> None:
        reader, writer = await connect()
        writer.write(_POST + _OFFER + framing + b"\r\n\r\n")
        await asyncio.sleep(pause)
        writer.write(body + _POST + _OFFER + b"Content-Length: 3\r\n\r\nabc" + _POST + b"Connection: close\r\n\r\n")
        assert (await _all(reader)).count(b"HTTP/1.1 200 OK") == 3

    assert run(offering, Application).read == [size, 3, 0]


def test_who_offers_another_protocol_and_sends_no_body_is_answered() -> None:
    async def offering(connect: Ask, _state: ServerState) -> None:
        reader, writer = await connect()
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n" * 300)
        assert b" 200 OK" in await _answer(reader)

    assert set(run(offering, Application).read) == {0}


def test_there_is_no_connect() -> None:
    async def proxied(connect: Ask, state: ServerState) -> None:
        reader, writer = await connect()
        writer.write(b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n" + _WITHIN)
        answer = await _all(reader)
        assert b" 405 " in answer
        assert answer.count(b"HTTP/1.1") == 1
        await _gone(state)

    assert run(proxied, Application).read == [405]


def test_an_address_that_cannot_be_read_is_refused() -> None:
    async def nowhere(connect: Ask, state: ServerState) -> None:
        reader, writer = await connect()
        writer.write(b"GET http://:x/ HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b" 400 " in await _all(reader)
        await _gone(state)

    assert run(nowhere, Application).read == [400]


@pytest.mark.parametrize("coding", [b"gzip, chunked", b"gzip\r\nTransfer-Encoding: chunked", b"identity, Chunked"])
def test_a_coding_that_is_not_undone_is_refused(coding: bytes) -> None:
    async def coded(connect: Ask, state: ServerState) -> None:
        reader, writer = await connect()
        writer.write(_POST + b"Transfer-Encoding: " + coding + b"\r\n\r\n3\r\nabc\r\n0\r\n\r\n" + _WITHIN)
        answer = await _all(reader)
        assert b" 501 " in answer
        assert answer.count(b"HTTP/1.1") == 1
        await _gone(state)

    assert run(coded, Application).read == [501]


def test_chunked_is_known_however_it_is_written() -> None:
    async def chunked(connect: Ask, _state: ServerState) -> None:
        reader, writer = await connect()
        writer.write(_POST + b"Transfer-Encoding: Chunked \r\n\r\n3\r\nabc\r\n0\r\n\r\n")
        assert b" 200 OK" in await _answer(reader)

    assert run(chunked, Application).read == [3]
