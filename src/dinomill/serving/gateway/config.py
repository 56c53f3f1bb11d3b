"""What the gateway can be told."""

from __future__ import annotations

from pydantic import Field

from dinomill.config import Config


class GatewayConfig(Config):
    """How the front of `dinomill serve` treats clients; none of it is part of a package."""

    overlap_minutes: float = Field(
        default=15.0, ge=0, description="how long a client's token is valid after it was renewed, in minutes"
    )
    header_seconds: float = Field(default=10.0, gt=0, description="a client that sends its headers slower is cut off")
    body_seconds: float = Field(default=30.0, gt=0, description="a client that sends its body slower is cut off")
    stall_seconds: float = Field(
        default=30.0, gt=0, description="a client that does not read its answer for so long is cut off"
    )
    answer_seconds: float = Field(default=120.0, gt=0, description="a request that waits longer is answered with 504")
    held_mb: int = Field(
        default=256, ge=1, description="memory for bodies of requests in MB; more are refused with 503"
    )
    connections: int = Field(default=512, ge=1, description="open connections of clients; more are closed at once")
    drain_seconds: float = Field(
        default=150.0, gt=0, description="how long a server that was replaced, or told to stop, may go on answering"
    )
    ready_seconds: float = Field(default=180.0, gt=0, description="how long a server may take until it answers")
    restarts: int = Field(
        default=3, ge=0, description="how often a server that ended by itself is started again in ten minutes"
    )
