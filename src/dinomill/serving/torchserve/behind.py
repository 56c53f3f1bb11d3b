"""A TorchServe behind the gateway: started for a package, asked with its own tokens, which are renewed in time.

<slot>/    where it runs; see server.py
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import threading
import zipfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from dinomill.errors import InputError, Interrupted, MachineError
from dinomill.handles import PackageHandle
from dinomill.serving.fetched import hold
from dinomill.serving.gateway.upstream import Question, Reply, Unreachable, Workers
from dinomill.serving.torchserve.properties import ServerConfig, baked_settings
from dinomill.serving.torchserve.server import TorchServe, free_ports
from dinomill.storage.hashing import hash_file

logger = logging.getLogger(__name__)

_RENEWED_AT = 0.5  # of a token's life: there is time to try again
_SHORT_SECONDS = 5.0  # for what is answered by Java alone
_RETRY_SECONDS = 1.0
_PART = 2**18
_BAD_TOKEN = "InvalidKeyException"


class TorchServeBehind:
    """One TorchServe with one package; an `Upstream` of the gateway.

    Args:
        package: The folder that the packaging stage wrote.
        slot: Where it runs.
        config: How it runs.
        session: The gateway's connections.

    Raises:
        InputError: When there is no package, or its archive is not the one that the package names.
    """

    def __init__(self, package: Path, slot: Path, config: ServerConfig, session: aiohttp.ClientSession) -> None:
        self._package = package
        self._held: int | None = None
        handle = PackageHandle.load(package)
        store = package / handle.archive.parent.name
        require_whole(store / handle.archive.name, handle)
        self.model, self.version, self.archive_sha256 = handle.model, str(handle.version), handle.archive_sha256
        self.about: Mapping[str, Mapping[str, Any]] = about(handle)
        self.offers = offers_of(store / handle.archive.name)
        self._limits = limits_of(store / handle.archive.name, handle.embed_dim, config)
        self._config, self._session = config, session
        self._server = TorchServe(handle.model, store, slot, config, free_ports())
        self._stopping = threading.Event()
        self._renewing = asyncio.Lock()
        self._token = ""

    def start(self, seconds: float) -> float:
        """Start it, and wait until its workers have loaded the model; until it stops, nobody removes the package."""
        self._held = hold(self._package)
        try:
            with contextlib.ExitStack() as undone:
                self._server.__enter__()
                undone.callback(self._server.__exit__)
                taken = self._server.wait_ready(seconds, self._go_on)
                undone.pop_all()
        except BaseException:
            self._release()
            raise
        self._token = self._server.token()
        return taken

    def _go_on(self, _seconds: float) -> None:
        if self._stopping.is_set():
            raise Interrupted("The start was interrupted.")

    def interrupt(self) -> None:
        """Make a start that waits give up."""
        self._stopping.set()

    def stop(self) -> None:
        """Stop it."""
        self._server.__exit__()
        self._release()

    def _release(self) -> None:
        if self._held is not None:
            os.close(self._held)
            self._held = None

    def running(self) -> bool:
        """Whether Java lives."""
        return self._server.running()

    def failure(self, problem: str) -> MachineError:
        """An error with the end of its log."""
        return self._server.failure(problem)

    def limits(self) -> Mapping[str, int | float]:
        """What a request may ask."""
        return self._limits

    async def predict(self, question: Question, seconds: float) -> Reply:
        """Ask for a prediction; a token that ended in between is replaced, and the question asked again."""
        used = self._token
        reply = await self._post(question, seconds, used)
        if _javas_own(reply) == _BAD_TOKEN:
            if used == self._token:  # nobody else has renewed it yet
                await self._renew(used)
            reply = await self._post(question, seconds, self._token)
        return _in_our_words(reply)

    async def workers(self) -> Workers:
        """How many workers are ready: what the management API says, not /ping, which is healthy without any."""
        said = await self._manage(f"/models/{self.model}", "management")
        workers = said[0].get("workers", []) if isinstance(said, list) and said else []
        return Workers(sum(one.get("status") == "READY" for one in workers), self._config.worker_count())

    async def metrics(self) -> bytes:
        """What is at its /metrics."""
        return (await self._ask("GET", self._server.ports.metrics, "/metrics", None, _SHORT_SECONDS)).body

    async def keep(self) -> None:
        """Renew the tokens, again and again, before they end."""
        while True:
            await asyncio.sleep(60 * self._config.token_minutes * _RENEWED_AT)
            while not await self._renew(self._token):
                await asyncio.sleep(_RETRY_SECONDS)

    async def _renew(self, used: str) -> bool:
        """Get new tokens, unless another request has done so since ``used`` was."""
        async with self._renewing:
            if self._token != used:
                return True
            try:
                for kind in ("management", "inference"):
                    await self._manage(f"/token?type={kind}", "API")
                self._token = self._server.token()
            except (Unreachable, OSError, ValueError, KeyError) as error:
                logger.warning("TorchServe's tokens could not be renewed: %s", error)
                return False
            return True

    async def _manage(self, path: str, kind: str) -> Any:
        try:
            token = self._server.token(kind)
        except (OSError, ValueError, KeyError) as error:
            raise Unreachable(f"no {kind} token: {error}") from None
        reply = await self._ask("GET", self._server.ports.management, path, token, _SHORT_SECONDS)
        if reply.status != 200:
            raise Unreachable(f"{path}: HTTP {reply.status}")
        try:
            return json.loads(reply.body)
        except ValueError:
            return None

    async def _post(self, question: Question, seconds: float, token: str) -> Reply:
        headers = {
            "Content-Type": question.content_type,
            "Accept": question.accept,
            "X-Request-Id": question.request_id,
        }
        if question.want:
            headers["X-Want"] = question.want
        path, port = f"/predictions/{self.model}", self._server.ports.inference
        return await self._ask("POST", port, path, token, seconds, question.body, headers)

    async def _ask(
        self,
        method: str,
        port: int,
        path: str,
        token: str | None,
        seconds: float,
        body: bytes | bytearray | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        sent = dict(headers or {})
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        data: Any = body
        if body is not None and len(body) > _PART:
            sent["Content-Length"] = str(len(body))
            data = _parts(body)
        elif body is not None:
            data = bytes(body)
        url, timeout = f"http://127.0.0.1:{port}{path}", aiohttp.ClientTimeout(total=seconds)
        try:
            async with self._session.request(method, url, data=data, headers=sent, timeout=timeout) as answer:
                kind = answer.headers.get("Content-Type", "application/octet-stream")
                return Reply(answer.status, await answer.read(), kind)
        except TimeoutError:
            raise
        except (aiohttp.ClientError, OSError) as error:
            raise Unreachable(f"{type(error).__name__}: {error}") from None


async def _parts(body: bytes | bytearray) -> AsyncIterator[bytes]:
    """A body, a part at a time: given whole, what Java has not read yet is there a second time."""
    for start in range(0, len(body), _PART):
        yield bytes(body[start : start + _PART])


def require_whole(archive: Path, handle: PackageHandle) -> None:
    """Refuse an archive that is not the one that was packaged.

    Raises:
        InputError: When it is missing, damaged, or of another version.
    """
    if not archive.is_file():
        raise InputError(f"There is no {archive}.", action="run the packaging stage again")
    if (found := hash_file(archive)) != handle.archive_sha256:
        raise InputError(
            f"{archive} is not the archive that was packaged: it is damaged, or of another version.",
            found=f"sha256 {found}",
            expected=f"sha256 {handle.archive_sha256}",
            action="run the packaging stage again, or copy the package once more",
        )


def unlike_package(archive: Path, config: ServerConfig) -> list[str]:
    """What is said about settings that the archive was made with and that are others now: they hold for a new one."""
    with zipfile.ZipFile(archive) as file:
        made_with = yaml.safe_load(file.read("model-config.yaml"))["handler"]
    return [
        f"  packaging.server.{name} is {now}, and the package was made with {made_with[name]}: run packaging again."
        for name, now in baked_settings(config).items()
        if name in made_with and made_with[name] != now
    ]


def limits_of(archive: Path, embed_dim: int, config: ServerConfig) -> dict[str, int | float]:
    """What a request may ask of an archive: what was baked into it, within what the server takes."""
    with zipfile.ZipFile(archive) as file:
        baked = yaml.safe_load(file.read("model-config.yaml"))["handler"]
        preprocessing = json.loads(file.read("config.json"))["preprocessing"]
    return {
        "max_request_mb": min(config.max_request_mb, baked.get("max_request_mb", config.max_request_mb)),
        "max_instances": baked.get("max_instances", 64),
        "max_megapixels": baked.get("max_megapixels", config.max_megapixels),
        "embed_dim": embed_dim,
        "channels": len(preprocessing["mean"]),
    }


def about(handle: PackageHandle) -> dict[str, dict[str, Any]]:
    """What a package says of itself, and where its model came from; a package of before says little."""
    known = {"weights_sha256": handle.weights_sha256, "archive_sha256": handle.archive_sha256}
    known = {name: value for name, value in known.items() if value}
    lineage = known | handle.lineage | {"backend": handle.backend}
    return {"lineage": lineage, "probe": dict(handle.probe), "index": dict(handle.index)}


def offers_of(archive: Path) -> tuple[str, ...]:
    """What an archive's handler answers, by what lies in it: archives of before know embeddings as JSON alone."""
    with zipfile.ZipFile(archive) as file:
        names = set(file.namelist())
    found = ["embedding"]
    if "dinomill/serving/views.py" in names:
        found += ["cls", "mean_patch", "patches", "pca"]
        found += [
            view
            for view, file_ in (("scores", "probe.safetensors"), ("neighbours", "index.safetensors"))
            if file_ in names
        ]
    if "dinomill/serving/answers.py" in names:
        found.append("binary")
    return tuple(found)


def _javas_own(reply: Reply) -> str | None:
    """The type of an error that Java itself answers with; None of what the handler says, whatever words are in it.

    A client chooses words that a handler's error may repeat, but not the shape of the answer: ``code`` and ``type``
    beside each other are Java's.
    """
    if reply.status < 400:
        return None
    try:
        said = json.loads(reply.body)
    except ValueError:
        return None
    if not isinstance(said, dict) or said.get("code") != reply.status or not isinstance(said.get("type"), str):
        return None
    return str(said["type"])


def _in_our_words(reply: Reply) -> Reply:
    """What Java says of itself is said as the handler would; a worker that died is no fault of the request."""
    kind = _javas_own(reply)
    if kind is None:
        return reply
    status = 503 if reply.status >= 500 or kind == _BAD_TOKEN else reply.status
    said = {
        503: "The server is busy or a worker of it ended: the request was not answered. Send it again.",
        413: "The request is too large.",
    }.get(status, "The server did not take the request.")
    return Reply(status, json.dumps({"error": said}).encode())
