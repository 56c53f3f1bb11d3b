"""What the gateway asks of a model server behind it, whichever program that is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from dinomill.errors import MachineError


class Question(NamedTuple):
    """A prediction that a client asked for."""

    body: bytes | bytearray
    content_type: str
    accept: str
    request_id: str
    want: str = ""  # more than an embedding, where the archive offers it


class Reply(NamedTuple):
    """What came back: a status, a body and its type. The headers of the server behind are its own affair."""

    status: int
    body: bytes
    content_type: str = "application/json"


class Workers(NamedTuple):
    """How many processes answer, and how many were asked for."""

    ready: int
    wanted: int


class Unreachable(Exception):
    """The server behind does not answer: it ended, is ending, or is too busy to accept."""


class Upstream(Protocol):
    """A model server with one package.

    Attributes:
        model: The name under which it is served.
        version: Of the model.
        archive_sha256: Of what it serves.
        offers: What may be asked of an image (``X-Want``), and ``binary`` where answers can be bytes.
        about: What its package says of itself: ``lineage``, and of what it answers with ``probe`` and ``index``.
    """

    model: str
    version: str
    archive_sha256: str
    offers: tuple[str, ...]
    about: Mapping[str, Mapping[str, Any]]

    def start(self, seconds: float) -> float:
        """Start it and wait until it can answer; blocks. Returns the seconds that it took."""

    def stop(self) -> None:
        """Stop it, and leave nothing; blocks."""

    def interrupt(self) -> None:
        """Make a `start` that waits give up; callable from another thread."""

    def running(self) -> bool:
        """Whether its process lives."""

    def failure(self, problem: str) -> MachineError:
        """An error that shows why it ended."""

    async def predict(self, question: Question, seconds: float) -> Reply:
        """Ask for a prediction. Raises Unreachable, TimeoutError."""

    async def workers(self) -> Workers:
        """What it says about its workers. Raises Unreachable."""

    async def metrics(self) -> bytes:
        """Its metrics in Prometheus' format. Raises Unreachable."""

    async def keep(self) -> None:
        """Whatever has to be done again and again while it runs, such as renewing its tokens; ends when cancelled."""

    def limits(self) -> Mapping[str, int | float]:
        """What a request may ask: max_request_mb, max_instances, max_megapixels, embed_dim, channels."""
