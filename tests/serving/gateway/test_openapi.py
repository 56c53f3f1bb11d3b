"""The gateway's description of itself is a valid one, and its answers are as described."""

from __future__ import annotations

import base64
import json
from typing import Any

import jsonschema
import pytest
from openapi_spec_validator import validate

from dinomill.serving.gateway.openapi import describe
from tests.serving.gateway.served import Served


def test_it_is_valid_whichever_model_is_served() -> None:
    validate(describe())  # type: ignore[arg-type]
    limits = {"max_request_mb": 2, "max_instances": 4, "max_megapixels": 0.5}
    document = describe("mill", limits)
    validate(document)  # type: ignore[arg-type]
    assert "0.5 million pixels" in document["info"]["description"]
    assert document["components"]["schemas"]["Instances"]["properties"]["instances"]["maxItems"] == 4


def test_every_path_is_answered_as_described(served: Served, photographs: list[bytes]) -> None:
    document = served.get("/openapi.json").body
    validate(document)
    image = base64.b64encode(photographs[0]).decode()
    several = json.dumps({"instances": [{"b64": image}]}).encode()
    admin = served.keys()["admin"]["key"]
    asked: list[tuple[str, str, bytes | None, str | None]] = [
        ("/predictions/{model}", "post", photographs[0], served.token),
        ("/predictions/{model}", "post", several, served.token),
        ("/predictions/{model}", "post", b"no image", served.token),
        ("/v1/embeddings", "post", json.dumps({"input": image}).encode(), served.token),
        ("/v1/embeddings", "post", json.dumps({"input": [image], "encoding_format": "base64"}).encode(), served.token),
        ("/v1/embeddings", "post", b"{}", served.token),
        ("/v1/embeddings", "post", b"{}", "wrong"),
        ("/v1/models", "get", None, served.token),
        ("/v1/models", "get", None, None),
        ("/v1/token", "post", b"", admin),
        ("/healthz", "get", None, None),
        ("/readyz", "get", None, None),
    ]
    for path, method, body, token in asked:
        answer = (
            served.get(path, token)
            if method == "get"
            else served.post(body or b"", path.format(model="mill"), token=token)
        )
        described = document["paths"][path][method]["responses"][str(answer.status)]
        jsonschema.validate(answer.body, _resolved(document, described["content"]["application/json"]["schema"]))
    assert {path for path, *_ in asked} | {"/metrics"} == set(document["paths"])


def test_what_is_not_as_described_would_be_found(served: Served) -> None:
    document = served.get("/openapi.json").body
    schema = _resolved(document, {"$ref": "#/components/schemas/EmbeddingsAnswer"})
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"object": "list", "data": [{}], "model": "mill", "usage": {}}, schema)


def _resolved(document: Any, schema: Any) -> Any:
    return schema | {"components": document["components"]}
