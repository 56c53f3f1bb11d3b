"""The few requests that the smoke test and the command line make to a running TorchServe."""

from __future__ import annotations

import base64
import http.client
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dinomill.errors import MachineError

KEY_FILE = "key_file.json"


class Answer(NamedTuple):
    """An HTTP status and the body, decoded when it is JSON."""

    status: int
    body: Any

    def message(self) -> str:
        """The error's text, whether the handler or TorchServe itself wrote it."""
        if isinstance(self.body, dict):
            return str(self.body.get("error") or self.body.get("message") or self.body)
        return str(self.body)


def read_token(folder: Path, kind: str = "inference") -> str:
    """The token that TorchServe wrote when it started.

    Args:
        folder: The directory where the server runs.
        kind: ``inference``, ``management`` or ``API`` (the last one issues new ones of the others).
    """
    keys = json.loads((folder / KEY_FILE).read_text(encoding="utf-8"))
    return str(keys[kind]["key"])


def request(
    method: str,
    port: int,
    path: str,
    *,
    token: str | None = None,
    body: bytes | None = None,
    content_type: str | None = None,
    timeout: float = 30.0,
) -> Answer:
    """Ask a server on loopback; never through a proxy.

    Raises:
        OSError: When nothing answers there.
    """
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    if content_type:
        headers["Content-Type"] = content_type
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request(method, path, body=body, headers=headers)
        response = connection.getresponse()
        raw = response.read()
    except http.client.HTTPException as error:
        raise ConnectionError(str(error)) from error
    finally:
        connection.close()
    try:
        return Answer(response.status, json.loads(raw))
    except ValueError:
        return Answer(response.status, raw.decode("utf-8", errors="replace"))


def embed(port: int, model: str, images: Sequence[bytes], *, token: str) -> list[list[float]]:
    """Embeddings of encoded images: one as a raw body, several as JSON instances.

    Raises:
        MachineError: When the server refuses.
    """
    if len(images) == 1:
        answer = request("POST", port, f"/predictions/{model}", token=token, body=images[0])
    else:
        answer = request("POST", port, f"/predictions/{model}", token=token, **json_instances(images))
    if answer.status != 200:
        raise MachineError(
            f"The server on port {port} refused to embed {len(images)} images.",
            found=f"HTTP {answer.status}: {answer.message()}",
        )
    body = answer.body
    return [body["embedding"]] if len(images) == 1 else list(body["embeddings"])


def json_instances(images: Sequence[bytes]) -> dict[str, Any]:
    """Body and content type of a request for several images."""
    payload = {"instances": [{"b64": base64.b64encode(image).decode()} for image in images]}
    return {"body": json.dumps(payload).encode(), "content_type": "application/json"}
