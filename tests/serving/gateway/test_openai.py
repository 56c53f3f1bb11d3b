"""`POST /v1/embeddings` asked as the library `openai` asks: by itself where it is installed, else by its very bytes."""

from __future__ import annotations

import base64
import json
import socket
from pathlib import Path

import numpy as np
import pytest

from dinomill.serving.predictor import Predictor
from tests.serving.gateway.served import Served

# As openai 3.57.0 wrote it to a socket; the token, the length and the inputs are put in.
_HEAD = """POST /v1/embeddings HTTP/1.1
Host: 127.0.0.1:{port}
Accept-Encoding: gzip, deflate
Connection: keep-alive
authorization: Bearer {token}
accept: application/json
content-type: application/json
user-agent: OpenAI/Python 3.57.0
x-stainless-lang: python
x-stainless-package-version: 3.57.0
x-stainless-os: Linux
x-stainless-arch: x64
x-stainless-runtime: CPython
x-stainless-runtime-version: 3.11.7
x-stainless-async: false
x-stainless-retry-count: 0
x-stainless-read-timeout: 600
Content-Length: {length}

"""


@pytest.fixture(scope="module")
def inputs(photographs: list[bytes]) -> list[str]:
    plain = base64.b64encode(photographs[0]).decode()
    return [plain, "data:image/jpeg;base64," + base64.b64encode(photographs[1]).decode()]


@pytest.fixture(scope="module")
def expected(backbone: Path, photographs: list[bytes]) -> np.ndarray:
    return Predictor(backbone)(photographs[:2])


def _replayed(served: Served, inputs: list[str], encoding: str) -> dict[str, object]:
    body = json.dumps(
        {"model": "mill", "input": inputs, "encoding_format": encoding}, separators=(",", ":"), ensure_ascii=False
    ).encode()
    head = _HEAD.format(port=served.port, token=served.token, length=len(body)).replace("\n", "\r\n")
    with socket.create_connection(("127.0.0.1", served.port), timeout=30) as link, link.makefile("rb") as answer:
        link.sendall(head.encode() + body)
        assert answer.readline().split()[1] == b"200"
        headers = {}
        while line := answer.readline().strip():
            name, _, value = line.partition(b":")
            headers[name.strip().lower()] = value.strip()
        assert headers[b"content-type"].startswith(b"application/json")
        found: dict[str, object] = json.loads(answer.read(int(headers[b"content-length"])))
    return found


@pytest.mark.parametrize("encoding", ["float", "base64"])  # it asks for base64 where its user asks for nothing
def test_what_the_library_sends(served: Served, inputs: list[str], expected: np.ndarray, encoding: str) -> None:
    answer = _replayed(served, inputs, encoding)
    assert (answer["object"], answer["model"]) == ("list", "mill")
    assert {"prompt_tokens", "total_tokens"} <= set(answer["usage"])  # type: ignore[call-overload]
    rows = [row["embedding"] for row in answer["data"]]  # type: ignore[attr-defined]
    if encoding == "base64":
        rows = [np.frombuffer(base64.b64decode(row), np.float32) for row in rows]
    np.testing.assert_allclose(rows, expected, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"encoding_format": "float"}, {"encoding_format": "base64"}])
def test_the_library_itself(
    served: Served, inputs: list[str], expected: np.ndarray, options: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    openai = pytest.importorskip("openai")
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{served.port}/v1", api_key=served.token, max_retries=0)
    answer = client.embeddings.create(model="mill", input=inputs, **options)
    rows = [one.embedding for one in answer.data]
    if options.get("encoding_format") == "base64":
        rows = [np.frombuffer(base64.b64decode(one), np.float32) if isinstance(one, str) else one for one in rows]
    np.testing.assert_allclose(rows, expected, atol=1e-4)
    assert [one.index for one in answer.data] == [0, 1]
    with pytest.raises(openai.BadRequestError, match="not fetched"):
        client.embeddings.create(model="mill", input="http://127.0.0.1/a.jpg")
    with pytest.raises(openai.BadRequestError, match="no such model"):
        client.embeddings.create(model="other", input=inputs)
    wrong = openai.OpenAI(base_url=f"http://127.0.0.1:{served.port}/v1", api_key="none", max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        wrong.embeddings.create(model="mill", input=inputs)
