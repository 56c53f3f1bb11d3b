"""What a server is asked: the encoded images of a request, whichever of its forms it has, or why there are none.

Forms: an encoded image as the body, or JSON, ``{"instances": [{"b64": "…"}, …]}``. Base64 may be broken into lines, and
may be a ``data:`` URL of an image. JSON may begin with a byte order mark. Bodies are taken as they are: compressed ones
and forms are refused. Nothing of a request's content is repeated in an answer.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from dinomill.errors import InputError
from dinomill.serving.answers import Form, negotiate
from dinomill.serving.bodies import is_json
from dinomill.serving.views import View, parse_views

_GZIP = b"\x1f\x8b"
_FORMS = 'an image file as the body, or {"instances": [{"b64": "<base64 of an image file>"}]}'

_KINDS = {str: "a text", int: "a number", float: "a number", bool: "true or false", list: "a list"}  # of JSON


class Request(NamedTuple):
    """Encoded images, whether they were one raw body, and what of them is wanted in which form."""

    images: list[bytes]
    single: bool
    views: tuple[View, ...] = ("embedding",)
    form: Form = "json"


class Unanswered(InputError):
    """A request that was understood and not answered: the server is to blame, not what was sent.

    Args:
        problem: What happened.
        status: Of HTTP.
        details: As of every error.
    """

    def __init__(self, problem: str, status: int = 500, **details: str | None) -> None:
        super().__init__(problem, **details)
        self.status = status


def read_request(
    row: Mapping[str, Any],
    max_instances: int,
    encoding: str | None = None,
    *,
    wanted: str | None = None,
    accept: str | None = None,
) -> Request:
    """The encoded images of a request.

    Args:
        row: The body, under ``body`` or ``data``: bytes, or what a server has decoded of JSON. What stands under other
            names was sent as a form.
        max_instances: How many images a request may carry.
        encoding: The request's ``Content-Encoding``.
        wanted: Its ``X-Want``; what JSON says under ``want`` counts first.
        accept: Its ``Accept``.

    Raises:
        InputError: When the request has neither form.
    """
    body = row.get("body", row.get("data"))
    if body is None and row:
        raise InputError(
            "The request was sent as a form.",
            expected=_FORMS,
            action="send the file itself: curl -T image.jpg …; --data-binary needs -H 'Content-Type: image/jpeg' too",
        )
    if encoding not in (None, "", "identity") or (isinstance(body, (bytes, bytearray)) and body[:2] == _GZIP):
        raise InputError(
            "The request's body is compressed, which is not taken here.",
            expected=_FORMS,
            action="send it without Content-Encoding: image files are compressed already",
        )
    if isinstance(body, (bytes, bytearray)):
        if not is_json(body):
            if not body:
                raise InputError("The request has no body.", expected="an encoded image or JSON instances")
            return _of_form(Request([bytes(body)], True), wanted, accept)
        body = _decode_json(bytes(body))
    instances = body.get("instances") if isinstance(body, Mapping) else None
    if not isinstance(instances, list) or not instances:
        raise InputError("The request is neither an encoded image nor JSON instances.", expected=_FORMS)
    if len(instances) > max_instances:
        raise InputError(
            "The request has too many instances.",
            found=str(len(instances)),
            expected=f"at most {max_instances}",
            action="split it into several requests",
        )
    request = Request([_decode_instance(number, instance) for number, instance in enumerate(instances)], False)
    return _of_form(request, body.get("want", wanted), accept)


def _of_form(request: Request, wanted: Any, accept: str | None) -> Request:
    """The same with what is wanted of it.

    Raises:
        InputError: When there is no such view or form, or it is more than bytes can hold.
    """
    form = negotiate(accept)
    views = ("embedding",) if wanted is None else parse_views(wanted)
    if form != "json" and views != ("embedding",):
        raise InputError(
            "Bytes hold embeddings alone.", found=", ".join(views), action="accept application/json for the rest"
        )
    return request._replace(views=views, form=form)


def _decode_json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except RecursionError:
        raise InputError("The request's JSON cannot be read.", found="it is nested too deeply") from None
    except ValueError as error:
        raise InputError("The request's JSON cannot be read.", found=str(error)) from None


def _decode_instance(number: int, instance: Any) -> bytes:
    if not isinstance(instance, Mapping):
        raise InputError(
            f"Instance {number} cannot be read.",
            found=f"{_KINDS.get(type(instance), 'null')} instead of an object",
            expected='{"b64": "<base64 of an image file>"}',
        )
    try:
        return _decode_base64(instance["b64"])
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise InputError(
            f"Instance {number} cannot be read.",
            found=f"no key {error}" if isinstance(error, KeyError) else str(error),
            expected='{"b64": "<base64 of an image file>"}',
        ) from None


def _decode_base64(text: Any) -> bytes:
    if not isinstance(text, str):
        raise TypeError(f"{_KINDS.get(type(text), 'an object or null')} instead of a text")
    if text[:5].lower() == "data:":
        kind, comma, text = text.partition(",")
        if not comma or not kind.lower().startswith("data:image/") or not kind.lower().endswith(";base64"):
            raise ValueError("a data: URL that is no image in base64 (data:image/jpeg;base64,…)")
    # Programs break base64 into lines of 76 characters; anything else that is no base64 is damage.
    return base64.b64decode("".join(text.split()), validate=True)
