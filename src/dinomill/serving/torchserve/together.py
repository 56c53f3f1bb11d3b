"""Limits of the server behind and of the gateway before it that cannot hold together, found before anything starts."""

from __future__ import annotations

from dinomill.errors import ConfigError
from dinomill.serving.gateway.config import GatewayConfig
from dinomill.serving.torchserve.properties import ServerConfig


def contradiction(server: ServerConfig, gateway: GatewayConfig) -> str | None:
    """What contradicts what, with both keys and their values; None where nothing does."""
    request, held, heap = server.max_request_mb, gateway.held_mb, server.heap_mb
    if request > held:
        return (
            f"server.max_request_mb is {request} and gateway.held_mb {held}: the largest request would never be taken; "
            f"raise gateway.held_mb to {request} at least, or lower server.max_request_mb"
        )
    # What waits in Java's queue came through the gateway, which holds no more than that.
    waiting = min(server.queue * request, held)
    if waiting > heap:
        return (
            f"server.heap_mb is {heap}, and the requests that may wait in it take {waiting} MB (server.queue × "
            f"server.max_request_mb = {server.queue * request}, gateway.held_mb = {held}); raise server.heap_mb, or "
            "lower server.queue or gateway.held_mb"
        )
    return None


def require_together(server: ServerConfig, gateway: GatewayConfig) -> None:
    """Refuse limits that cannot hold together.

    Raises:
        ConfigError: Names the keys.
    """
    if (problem := contradiction(server, gateway)) is not None:
        raise ConfigError(f"packaging: {problem}.")
