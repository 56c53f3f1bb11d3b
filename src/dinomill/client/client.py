"""The client: images in, embeddings out, over connections that are used again."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np

from dinomill.arrays import Floats
from dinomill.client.batches import Batch, batches, read_answer, render_request
from dinomill.client.images import Image, encoded, named, several
from dinomill.client.link import Link, Retries
from dinomill.client.token import Token
from dinomill.errors import InputError, MachineError

_MEGABYTE = 2**20


class Model(NamedTuple):
    """What is served, and what one request may ask."""

    name: str
    version: str
    embed_dim: int
    max_instances: int
    max_request_mb: float


class Client:
    """A server's embeddings.

    Args:
        url: Of the server: ``http://127.0.0.1:8080``, or ``https://…`` of a proxy in front of it.
        token: The client's token.
        token_file: Instead of it, the server's ``tokens.json`` or a file with the token alone. It is read again when
            the server no longer takes what was in it, so that a renewal is not noticed.
        timeout: Seconds for one answer.
        retries: How often a request is sent again that the server could not answer at the moment.
        parallel: Requests at a time.
        images_a_request: Images in one request at most; the server's own limit holds in any case.

    Raises:
        InputError: When the address or the token is unusable.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        token_file: Path | str | None = None,
        timeout: float = 120.0,
        retries: int = 6,
        parallel: int = 4,
        images_a_request: int = 16,
    ) -> None:
        if parallel < 1 or images_a_request < 1:
            raise InputError("parallel and images_a_request have to be at least 1.")
        self._url, self._timeout = url, timeout
        self._token = Token(token, None if token_file is None else Path(token_file))
        self._retries = Retries(retries)
        self._parallel, self._most = parallel, images_a_request
        self._pool: ThreadPoolExecutor | None = None
        self._links: list[Link] = [self._new_link()]  # says at once what is wrong with the address
        self._free = threading.Lock()
        self._model: Model | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None
        with self._free:
            for link in self._links:
                link.close()

    @property
    def model(self) -> Model:
        """What is served, as first seen.

        Raises:
            MachineError: When the server does not answer.
        """
        if self._model is None:
            self._model = self.look()
        return self._model

    def look(self) -> Model:
        """What is served now."""
        said = self._ask("GET", "/v1/models", None)
        try:
            row = read_answer(said)["data"][0]
            limits = row["limits"]
            return Model(
                str(row["id"]),
                str(row["version"]),
                int(limits["embed_dim"]),
                int(limits["max_instances"]),
                float(limits["max_request_mb"]),
            )
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise MachineError(
                f"{self._url} is not a server of dinomill.", found=f"{type(error).__name__}: {error}"
            ) from None

    def embed(self, images: Image | Iterable[Image]) -> Floats:
        """Embed images, in their order: ``[N, D]`` float32.

        Args:
            images: Paths, encoded images (bytes) or pictures of Pillow; one of them, or several.

        Raises:
            InputError: When the server refuses an image; says which one.
            MachineError: When the server does not answer.
        """
        return self._collect(list(self.stream(images)))

    def stream(self, images: Image | Iterable[Image]) -> Iterator[Floats]:
        """Embed any number of images, ``[<= images_a_request, D]`` at a time, in their order.

        Images are read as they are needed; no more are held than are being asked for.
        """
        many = several(images)
        model = self.model
        size = min(self._most, model.max_instances)
        ready = batches(((named(one), encoded(one)) for one in many), size, model.max_request_mb * _MEGABYTE)
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._parallel, thread_name_prefix="dinomill-client")
        waiting = []
        try:
            for batch in ready:
                waiting.append(self._pool.submit(self._embed_batch, batch))
                if len(waiting) > self._parallel:
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        finally:
            for one in waiting:
                one.cancel()

    def _embed_batch(self, batch: Batch) -> Floats:
        return batch.vectors(self._ask("POST", "/v1/embeddings", render_request(self.model.name, batch), batch.names))

    def _collect(self, parts: Sequence[Floats]) -> Floats:
        return np.concatenate(parts) if parts else np.empty((0, self.model.embed_dim), np.float32)

    def _ask(self, method: str, path: str, body: bytes | None, names: Sequence[str] = ()) -> bytes:
        with self._free:
            link = self._links.pop() if self._links else None
        link = link or self._new_link()
        try:
            return link.ask(method, path, body, self._token, self._retries, names)
        finally:
            with self._free:
                self._links.append(link)

    def _new_link(self) -> Link:
        return Link(self._url, self._timeout)
