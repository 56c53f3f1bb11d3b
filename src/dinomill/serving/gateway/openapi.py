"""The gateway's description of itself: OpenAPI 3.1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import dinomill

_LIMITS: Mapping[str, int | float] = {"max_request_mb": 8, "max_instances": 64, "max_megapixels": 40}
_OWN = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}
_NESTED = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "integer"},
            },
            "required": ["message", "type"],
        }
    },
    "required": ["error"],
}
_VECTOR = {"type": "array", "items": {"type": "number"}}
_REASONS = {
    "400": "Not understood: no image, a damaged or too large one, more images than allowed",
    "401": "No token, or one that is not valid",
    "404": "There is no such model",
    "408": "The body arrived too slowly",
    "413": "The body is too large",
    "500": "A fault of the server",
    "503": "Busy, starting, or a worker ended: ask again after the seconds in Retry-After",
    "504": "Not answered in time",
}
_OF_TOKENS = {"507": "The new token cannot be written down; the one before it stays valid"}


def describe(model: str = "model", limits: Mapping[str, int | float] = _LIMITS) -> dict[str, Any]:
    """The document.

    Args:
        model: The name of the model that is served.
        limits: What a request may ask.
    """
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"Image embeddings by {model}",
            "version": dinomill.__version__,
            "description": f"A request has at most {limits['max_request_mb']:g} MB and {limits['max_instances']:g} "
            f"images, an image at most {limits['max_megapixels']:g} million pixels of colour. Every answer has an "
            "X-Request-Id, the request's own where it brought a valid one.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"token": []}],
        "components": {
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "`current` in tokens.json"},
                "admin": {"type": "http", "scheme": "bearer", "description": "`admin` in tokens.json"},
            },
            "schemas": {"Error": _OWN, "EmbeddingsError": _NESTED, **_schemas(limits)},
        },
        "paths": {
            "/predictions/{model}": {"post": _predictions(model)},
            "/v1/embeddings": {"post": _embeddings()},
            "/v1/models": {"get": _simple("listModels", "The model, and what may be asked of it", ["401", "503"])},
            "/v1/token": {
                "post": _simple(
                    "renewToken", "A new client's token; the old one stays valid for a while", ["401", "507"]
                )
                | {"security": [{"admin": []}]}
            },
            "/healthz": {"get": _open("alive", "The process lives")},
            "/readyz": {"get": _open("ready", "At least one worker can answer", ["503"])},
            "/metrics": {"get": _open("metrics", "Figures in Prometheus' format", kind="text/plain")},
        },
    }


def _schemas(limits: Mapping[str, int | float]) -> dict[str, Any]:
    image = {"type": "string", "description": "base64 of an image file, or a data: URL; addresses are not fetched"}
    most = int(limits["max_instances"])
    return {
        "Instances": {
            "type": "object",
            "required": ["instances"],
            "properties": {
                "instances": {
                    "type": "array",
                    "minItems": 1,
                    "maxItems": most,
                    "items": {"type": "object", "required": ["b64"], "properties": {"b64": image}},
                }
            },
        },
        "EmbeddingsRequest": {
            "type": "object",
            "required": ["input"],
            "properties": {
                "model": {"type": "string"},
                "input": {"oneOf": [image, {"type": "array", "minItems": 1, "maxItems": most, "items": image}]},
                "encoding_format": {"enum": ["float", "base64"], "default": "float"},
                "dimensions": {"type": "integer", "description": "the embedding's own number alone"},
                "user": {"type": "string", "description": "not used"},
            },
            "additionalProperties": False,
        },
        "EmbeddingsAnswer": {
            "type": "object",
            "required": ["object", "data", "model", "usage"],
            "properties": {
                "object": {"const": "list"},
                "model": {"type": "string"},
                "data": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["object", "index", "embedding"],
                        "properties": {
                            "object": {"const": "embedding"},
                            "index": {"type": "integer"},
                            "embedding": {
                                "oneOf": [
                                    _VECTOR,
                                    {"type": "string", "description": "base64 of float32, little-endian"},
                                ]
                            },
                        },
                    },
                },
                "usage": {
                    "type": "object",
                    "required": ["prompt_tokens", "total_tokens", "images"],
                    "properties": {name: {"type": "integer"} for name in ("prompt_tokens", "total_tokens", "images")},
                },
            },
        },
    }


def _predictions(model: str) -> dict[str, Any]:
    file = {"schema": {"type": "string", "format": "binary"}}
    answer = {
        "oneOf": [
            {"type": "object", "required": ["embedding"], "properties": {"embedding": _VECTOR}},
            {
                "type": "object",
                "required": ["embeddings"],
                "properties": {"embeddings": {"type": "array", "items": _VECTOR}},
            },
            {"type": "object", "description": "what X-Want asked for", "not": {"anyOf": _PLAIN}},
        ]
    }
    ok = _ok("The embedding, or the embeddings in order", answer)
    ok["content"]["application/octet-stream"] = file  # where `offers` of /v1/models has `binary`
    return {
        "operationId": "predict",
        "summary": "Embed an image, or several",
        "parameters": [
            {"name": "model", "in": "path", "required": True, "schema": {"type": "string", "default": model}},
            _ID,
            _WANT,
        ],
        "requestBody": {
            "required": True,
            "content": {
                "application/octet-stream": file,
                "image/*": file,
                "application/json": {"schema": {"$ref": "#/components/schemas/Instances"}},
            },
        },
        "responses": {"200": ok, **_errors(list(_REASONS))},
    }


def _embeddings() -> dict[str, Any]:
    request, answer = ({"$ref": f"#/components/schemas/Embeddings{name}"} for name in ("Request", "Answer"))
    return {
        "operationId": "createEmbeddings",
        "summary": "Embed images, in the shape that clients of text embeddings speak",
        "parameters": [_ID],
        "requestBody": {"required": True, "content": {"application/json": {"schema": request}}},
        "responses": {
            "200": _ok("The embeddings, in order", answer),
            **_errors([code for code in _REASONS if code != "404"], "EmbeddingsError"),
        },
    }


def _simple(operation: str, summary: str, errors: Sequence[str]) -> dict[str, Any]:
    return {
        "operationId": operation,
        "summary": summary,
        "responses": {"200": _ok(summary, {"type": "object"}), **_errors(errors)},
    }


def _open(
    operation: str, summary: str, errors: Sequence[str] = (), *, kind: str = "application/json"
) -> dict[str, Any]:
    schema = {"type": "object" if kind == "application/json" else "string"}
    answers = {code: {"description": "Not now", "content": {kind: {"schema": schema}}} for code in errors}
    return {
        "operationId": operation,
        "summary": summary,
        "security": [],
        "responses": {"200": _ok(summary, schema, kind), **answers},
    }


def _ok(description: str, schema: Mapping[str, Any], kind: str = "application/json") -> dict[str, Any]:
    return {
        "description": description,
        "headers": {"X-Request-Id": {"schema": {"type": "string"}}},
        "content": {kind: {"schema": dict(schema)}},
    }


def _errors(codes: Sequence[str], schema: str = "Error") -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {code: {"description": (_REASONS | _OF_TOKENS)[code], "content": content} for code in codes}


_PLAIN = [{"required": ["embedding"]}, {"required": ["embeddings"]}]
_WANT = {
    "name": "X-Want",
    "in": "header",
    "required": False,
    "description": "what is wanted of an image, of `offers` in /v1/models, with commas between: embedding,scores,pca",
    "schema": {"type": "string"},
}
_ID = {
    "name": "X-Request-Id",
    "in": "header",
    "required": False,
    "description": "1 to 128 letters, digits, '.', '_', ':' and '-'; else one is made",
    "schema": {"type": "string", "maxLength": 128},
}
