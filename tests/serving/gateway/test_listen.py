from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest

from dinomill.errors import MachineError
from dinomill.serving.gateway.listen import listening, reached_at


def _has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as one:
        one.bind(("::1", 0))
        return True
    return False


needs_ipv6 = pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6")


@needs_ipv6
@pytest.mark.parametrize(("host", "asked"), [("::1", ["::1"]), ("::", ["::1", "127.0.0.1"])])
def test_ipv6_is_listened_on_and_everywhere_means_ipv4_too(host: str, asked: list[str]) -> None:
    with listening(host, 0) as listener:
        port = listener.getsockname()[1]
        for one in asked:
            socket.create_connection((one, port), timeout=5).close()
        if host == "::1":
            with pytest.raises(OSError):
                socket.create_connection(("127.0.0.1", port), timeout=5)


@pytest.mark.parametrize("host", ["127.0.0.1", pytest.param("::1", marks=needs_ipv6)])
def test_answers_do_not_wait_for_acknowledgements(host: str) -> None:
    """The median of 20 small answers took 60 ms on one connection: headers and body are two packets."""

    async def answered() -> int:
        sent: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def accepted(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connection = writer.get_extra_info("socket")
            sent.set_result(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        with listening(host, 0) as listener:
            async with await asyncio.start_server(accepted, sock=listener):
                _, writer = await asyncio.open_connection(host, listener.getsockname()[1])
                found = await sent
                writer.close()
                return found

    assert asyncio.run(answered())


@pytest.mark.parametrize("host", ["192.0.2.1", "nowhere.invalid", "2001:db8::1", "::zz"])
def test_an_address_that_is_not_here_is_not_called_a_port_in_use(host: str) -> None:
    with pytest.raises(MachineError, match=rf"^{host} cannot be listened on") as refused, listening(host, 8080):
        pass
    assert "port" not in str(refused.value).lower()


def test_a_port_in_use_is_said() -> None:
    with listening("127.0.0.1", 0) as one:
        port = one.getsockname()[1]
        with pytest.raises(MachineError, match=f"Port {port} cannot be used"), listening("127.0.0.1", port):
            pass


@pytest.mark.parametrize(
    ("host", "found"),
    [
        ("0.0.0.0", "127.0.0.1"),
        ("", "127.0.0.1"),
        ("::", "[::1]"),
        ("::1", "[::1]"),
        ("10.1.2.3", "10.1.2.3"),
        ("mill.example.org", "mill.example.org"),
    ],
)
def test_how_this_machine_reaches_it(host: str, found: str) -> None:
    assert reached_at(host) == found
