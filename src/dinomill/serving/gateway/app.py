"""The gateway's routes: who may ask what, and what is said to whom may not.

GET  /                                 the page                             no token
GET  /healthz /readyz /metrics         for whoever looks after it           no token
GET  /openapi.json                     this, described                      no token
GET  /v1/models                        the model, and what may be asked     a client's token
POST /predictions/<model>[/<version>]  an embedding, or several             a client's token
POST /v1/embeddings                    the same, as clients of text say it  a client's token
POST /v1/token                         a new client's token                 the admin's key
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from dinomill.errors import InputError, StorageError
from dinomill.serving.bodies import is_json
from dinomill.serving.gateway import embeddings
from dinomill.serving.gateway.bodies import REFUSED, Held, Refused, read_body, refuse_unread, refuse_unreadable
from dinomill.serving.gateway.config import GatewayConfig
from dinomill.serving.gateway.fleet import Fleet
from dinomill.serving.gateway.metrics import Metrics
from dinomill.serving.gateway.openapi import describe
from dinomill.serving.gateway.page.files import page_routes
from dinomill.serving.gateway.replies import (
    PRIVATE,
    Answering,
    bearer,
    forwarded,
    no_token,
    not_offered,
    read_off,
    reason_of,
    short,
)
from dinomill.serving.gateway.requestlog import RequestLog, request_id
from dinomill.serving.gateway.tokens import ClientTokens
from dinomill.serving.gateway.upstream import Question, Reply, Unreachable, Upstream

logger = logging.getLogger(__name__)

_FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")
_POSTED = ["POST", "PUT"]  # `curl -T` puts
_CLOSED = 499  # as nginx writes it down: nobody was there to take the answer

Endpoint = Callable[[Request], Awaitable[Response]]


class Gateway:
    """The ASGI application.

    Args:
        fleet: The servers behind.
        tokens: The clients'.
        log: Takes a line a request that is to be embedded.
        config: Times and sizes.
    """

    def __init__(self, fleet: Fleet, tokens: ClientTokens, log: RequestLog, config: GatewayConfig) -> None:
        self._fleet, self._tokens, self._log, self._config = fleet, tokens, log, config
        self._held = Held(config.held_mb * 2**20)
        self.metrics = Metrics()
        self._router = Router(
            [
                Route("/healthz", self._healthz),
                Route("/readyz", self._readyz),
                Route("/metrics", self._metrics),
                Route("/openapi.json", self._openapi),
                Route("/v1/models", self._guarded(self._models)),
                Route("/v1/token", self._renew, methods=["POST"]),
                Route("/predictions/{model}", self._guarded(self._predictions), methods=_POSTED),
                Route("/predictions/{model}/{version}", self._guarded(self._predictions), methods=_POSTED),
                Route("/v1/embeddings", self._guarded(self._embeddings), methods=["POST"]),
                *page_routes(),
            ],
            redirect_slashes=False,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; whatever happens, it has an answer, an id and a line in the log."""
        if scope["type"] != "http":
            return
        request = Request(scope, receive, send)
        began, number = time.perf_counter(), request_id(request.headers.get("x-request-id"))
        scope.setdefault("state", {}).update(id=number, images=0, bytes=0, served=None)
        seen = Answering(send, number, scope["path"].startswith("/v1/embeddings"))
        scope["app"] = self  # so that the router raises what it cannot find, and we say it
        try:
            refuse_unreadable(request)
            with self._held.account() as account:  # until the answer was sent: who reads it slowly holds it here
                scope["state"]["account"] = account
                await self._router(scope, receive, seen.send)
        except Refused as refused:
            await seen.refuse(refused.status, refused.reason, close=refused.close)
        except HTTPException as error:
            headers = dict(error.headers or {})
            reason = {404: "There is nothing here.", 405: "That method is not known here."}.get(error.status_code)
            found = await read_off(request, Refused(error.status_code, reason or error.detail))
            await seen.refuse(found.status, found.reason, close=found.close, headers=headers)
        except ClientDisconnect:
            seen.status = _CLOSED
        except asyncio.CancelledError:  # the server ends, and there was no more time for this one
            await seen.refuse(503, "The server is stopping. Send it again.", close=True)
        except Exception:
            logger.exception("request %s failed", number)
            await seen.refuse(500, "The request could not be answered.", close=True)
        finally:
            self._write_down(request, seen.status, time.perf_counter() - began)

    def _write_down(self, request: Request, status: int, seconds: float) -> None:
        if request.method not in _POSTED and REFUSED not in request.scope:
            return
        state = request.state
        served: Upstream | None = state.served
        self.metrics.count(status, seconds, state.images)
        self._log.write(
            {
                "id": state.id,
                "path": request.scope["path"][:200],
                "status": status,
                "ms": round(1000 * seconds, 1),
                "model": None if served is None else served.model,
                "version": None if served is None else served.version,
                "archive": None if served is None else served.archive_sha256,
                "images": state.images,
                "bytes": state.bytes,
            }
        )

    def _guarded(self, endpoint: Endpoint) -> Endpoint:
        """For clients with a token alone."""

        async def guarded(request: Request) -> Response:
            if not self._tokens.accepts(bearer(request)):
                raise await refuse_unread(request, no_token("a client's token, as in tokens.json"))
            return await endpoint(request)

        return guarded

    async def _healthz(self, _request: Request) -> Response:
        return JSONResponse({"alive": True})

    async def _readyz(self, _request: Request) -> Response:
        workers, member = await self._fleet.workers(), self._fleet.current
        said = {
            "ready": workers.ready > 0,
            "workers": workers._asdict(),
            "model": member.upstream.model if member else None,
            "version": member.upstream.version if member else None,
        }
        return JSONResponse(said, 200 if workers.ready else 503)

    async def _metrics(self, _request: Request) -> Response:
        member = self._fleet.current
        behind = b""
        if member is not None:
            try:
                behind = await member.upstream.metrics()
            except (Unreachable, TimeoutError):
                logger.warning("the metrics of the server behind could not be read")
        workers = await self._fleet.workers()
        own = self.metrics.render(member.upstream if member else None, self._fleet.swaps, workers)
        return Response(own + behind, media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _openapi(self, _request: Request) -> Response:
        member = self._fleet.current
        return JSONResponse(describe(member.upstream.model, self._limits(member.upstream)) if member else describe())

    async def _models(self, request: Request) -> Response:
        upstream = self._served(request)
        row = {
            "id": upstream.model,
            "object": "model",
            "owned_by": "dinomill",
            "version": upstream.version,
            "archive_sha256": upstream.archive_sha256,
            "limits": self._limits(upstream),
            "offers": list(upstream.offers),
            **{name: dict(told) for name, told in upstream.about.items()},
        }
        return JSONResponse({"object": "list", "data": [row]})

    async def _renew(self, request: Request) -> Response:
        refusal = None if self._tokens.is_admin(bearer(request)) else no_token("the admin's key, as in tokens.json")
        if refusal is not None:
            raise await refuse_unread(request, refusal)
        try:
            until = self._tokens.renew()
        except (StorageError, OSError) as error:
            logger.error("the clients' token was not renewed: %s", error)
            raise Refused(507, f"The token was not renewed, and the one before it stays valid. {error}") from None
        return JSONResponse({"token": self._tokens.current, "previous_valid_until": until}, headers=PRIVATE)

    async def _predictions(self, request: Request) -> Response:
        upstream = self._served(request)
        asked = request.path_params
        if asked["model"] != upstream.model or asked.get("version", upstream.version) != upstream.version:
            here = f"{upstream.model}, version {upstream.version}"
            raise await refuse_unread(request, Refused(404, f"There is no such model here. There is {here}."))
        want = request.headers.get("x-want", "")
        if (refused := not_offered(want, upstream.offers)) is not None:
            raise await refuse_unread(request, refused)
        body = await self._body(request, upstream)
        kind = "application/json" if is_json(body) else "application/octet-stream"
        request.state.images = body.count(b'"b64"') if kind == "application/json" else 1
        accept = short(request.headers.get("accept", ""))
        reply = await self._ask(request, body, kind, accept, want)
        body.clear()
        return forwarded(request, reply)

    async def _embeddings(self, request: Request) -> Response:
        upstream = self._served(request)
        limits = upstream.limits()
        body = await self._body(request, upstream)
        try:
            asked = embeddings.read_embeddings(
                body, upstream.model, int(limits["embed_dim"]), int(limits["max_instances"])
            )
        except InputError as error:
            raise Refused(400, str(error)) from None
        body.clear()
        request.state.images = len(asked.images)
        accept = embeddings.BINARY if "binary" in upstream.offers else "application/json"
        reply = await self._ask(request, embeddings.instances(asked), "application/json", accept)
        if reply.status != 200:
            raise Refused(reply.status, reason_of(reply))
        return forwarded(request, Reply(200, embeddings.render_embeddings(reply, asked, upstream.model)))

    def _served(self, request: Request) -> Upstream:
        member = self._fleet.current
        if member is None:
            raise Refused(503, "The server is starting. Send it again.", close=True)
        request.state.served = member.upstream
        return member.upstream

    def _limits(self, upstream: Upstream) -> dict[str, int | float]:
        """What a request may ask: of the server behind, and of what the gateway holds."""
        limits = dict(upstream.limits())
        return limits | {"max_request_mb": min(limits["max_request_mb"], self._config.held_mb)}

    async def _body(self, request: Request, upstream: Upstream) -> bytearray:
        kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
        if kind in _FORMS:
            reason = InputError(
                "The request was sent as a form.",
                expected="an image file as the body, or JSON",
                action="send the file itself: curl -T image.jpg …; --data-binary needs "
                "-H 'Content-Type: image/jpeg' too",
            )
            raise await refuse_unread(request, Refused(400, str(reason)))
        if request.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
            reason = InputError(
                "The request's body is compressed, which is not taken here.",
                action="send it without Content-Encoding: image files are compressed already",
            )
            raise await refuse_unread(request, Refused(400, str(reason)))
        most = int(self._limits(upstream)["max_request_mb"] * 2**20)
        body = await read_body(request, most, self._config.body_seconds, request.state.account)
        request.state.bytes = len(body)
        return body

    async def _ask(self, request: Request, body: bytearray, kind: str, accept: str = "", want: str = "") -> Reply:
        question = Question(body, kind, accept or "application/json", request.state.id, want)
        reply, request.state.served = await self._fleet.ask(question)
        request.state.account.free()
        request.state.account.take(len(reply.body))
        return reply
