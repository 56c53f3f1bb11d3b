"""The gateway's own socket: IPv4 or IPv6, with what is wrong about port or address said."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterator

from dinomill.errors import MachineError

LOOPBACK = "127.0.0.1"
_ANY = {"": LOOPBACK, "0.0.0.0": LOOPBACK, "::": "::1"}  # as who listens everywhere is reached from this machine
_OF_PORTS = (errno.EADDRINUSE, errno.EACCES, errno.EPERM)


def reached_at(host: str) -> str:
    """What stands for a host in the address under which this machine reaches a server that listens on it."""
    found = _ANY.get(host, host)
    return f"[{found}]" if ":" in found else found


@contextlib.contextmanager
def listening(host: str, port: int, elsewhere: str = "dinomill serve --port 9000") -> Iterator[socket.socket]:
    """A socket that listens.

    Args:
        host: An address of this machine; ``::`` takes IPv4 as well.
        port: 0 takes one that is free.
        elsewhere: The command that takes another port.

    Raises:
        MachineError: When the port is in use, or there is no such address here.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with contextlib.ExitStack() as stack:
        try:
            # Only where the protocol is named does asyncio send at once (TCP_NODELAY). Else the second part of an
            # answer waits for the client's delayed acknowledgement of the first: some 50 ms of each request.
            listener = stack.enter_context(socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(host != "::"))
            listener.bind((host, port))
            listener.listen(512)
        except OSError as error:
            raise _refused(host, port, error, elsewhere) from None
        yield listener


def _refused(host: str, port: int, error: OSError, elsewhere: str) -> MachineError:
    if error.errno in _OF_PORTS:
        return MachineError(
            f"Port {port} cannot be used: {error.strerror}.",
            expected="a free port",
            action=f"stop the program that uses it (`ss -ltnp 'sport = :{port}'` shows it), or choose another: "
            f"{elsewhere}",
        )
    return MachineError(
        f"{host} cannot be listened on: {error.strerror}.",
        expected="an address of this machine, 0.0.0.0 for all of IPv4, or :: for all of IPv6 and IPv4",
        action="correct the address (in a container DINOMILL_HOST); `ip address` shows those that there are",
    )
