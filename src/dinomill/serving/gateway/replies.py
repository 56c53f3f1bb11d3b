"""What is sent back: with an id, within what clients of either shape read, and with nothing of the server behind."""

from __future__ import annotations

import json
from collections.abc import Sequence

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from dinomill.errors import InputError
from dinomill.serving.gateway.bodies import Refused, refuse_unread
from dinomill.serving.gateway.embeddings import render_error
from dinomill.serving.gateway.upstream import Reply, Upstream

PRIVATE = {"Cache-Control": "no-store"}
_RETRY = {503: "1", 504: "1"}
_PART = 2**18
_LONGEST = 1000  # of a header that is passed on


class Answering:
    """What was sent of an answer; adds what every answer has."""

    def __init__(self, send: Send, number: str, nested_errors: bool) -> None:
        self._send, self._number, self._nested = send, number, nested_errors
        self.status = 0

    async def send(self, message: Message) -> None:
        """Send a part of it."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [
                *message["headers"],
                (b"x-request-id", self._number.encode()),
                (b"x-content-type-options", b"nosniff"),
            ]
        await self._send(message)

    async def refuse(
        self, status: int, reason: str, *, close: bool = False, headers: dict[str, str] | None = None
    ) -> None:
        """Say why there is no other answer."""
        if self.status:  # too late: the answer has begun
            return
        sent = dict(headers or {})
        if close:
            sent["Connection"] = "close"
        if status in _RETRY:
            sent["Retry-After"] = _RETRY[status]
        if status == 401:
            sent["WWW-Authenticate"] = "Bearer"
        body = render_error(status, reason) if self._nested else json.dumps({"error": reason}).encode()
        response = Response(body, status, sent, "application/json")
        await response({"type": "http"}, _nothing, self.send)


async def _nothing() -> Message:
    return {"type": "http.disconnect"}


async def read_off(request: Request, refused: Refused) -> Refused:
    """As `refuse_unread`, of a client that may have gone."""
    try:
        return await refuse_unread(request, refused)
    except ClientDisconnect:
        return refused


def short(header: str) -> str:
    """A header that is passed on, unless it is none that could mean anything there."""
    return header if len(header) <= _LONGEST and header.isascii() and header.isprintable() else ""


def bearer(request: Request) -> str:
    """The token that a request brings; empty where it has none."""
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if kind.lower() == "bearer" else ""


def not_offered(want: str, offers: Sequence[str]) -> Refused | None:
    """Why ``X-Want`` cannot be answered, without a word of it; None when it can, or when nothing is wanted."""
    views = [name for name in offers if name != "binary"]  # a form of an answer, which Accept asks for
    if len(want) <= _LONGEST and (not want or all(name.strip() in views for name in want.split(","))):
        return None
    reason = InputError(
        "X-Want names something that is not offered here.",
        expected=f"one or more of {', '.join(views)}, with commas between",
        action="leave it away for embeddings; packaging.probe and packaging.index add scores and neighbours",
    )
    return Refused(400, str(reason))


def no_token(expected: str) -> Refused:
    """What who has no valid token is told."""
    return Refused(401, f"Token missing or not valid. Expected in the header Authorization: Bearer {expected}.")


def forwarded(request: Request, reply: Reply) -> Response:
    """The answer of the server behind, less its headers."""
    headers = dict(PRIVATE)
    served: Upstream | None = request.state.served
    if served is not None:
        headers["X-Model-Version"] = served.version
    if reply.status in _RETRY:
        headers["Retry-After"] = _RETRY[reply.status]
    return InParts(reply.body, reply.status, headers, reply.content_type)


class InParts(Response):
    """An answer whose client takes a part before the next is written: the connection's buffer holds no second copy."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Send it."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        whole = memoryview(self.body)
        for start in range(0, max(len(whole), 1), _PART):
            part, more = bytes(whole[start : start + _PART]), start + _PART < len(whole)
            await send({"type": "http.response.body", "body": part, "more_body": more})


def reason_of(reply: Reply) -> str:
    """The text of an error."""
    try:
        return str(json.loads(reply.body)["error"])
    except (ValueError, KeyError, TypeError):
        return "The server did not answer the request."
