from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping
from typing import Any

import pytest

from dinomill.errors import InputError
from dinomill.serving.requests import read_request


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_a_raw_body_is_one_image() -> None:
    assert read_request({"body": b"\xff\xd8jpeg"}, 4)[:2] == ([b"\xff\xd8jpeg"], True)
    assert read_request({"data": bytearray(b"png")}, 4)[:2] == ([b"png"], True)


def test_json_instances_come_decoded_or_as_bytes() -> None:
    payload = {"instances": [{"b64": _b64(b"one")}, {"b64": _b64(b"two")}]}
    assert read_request({"body": payload}, 4)[:2] == ([b"one", b"two"], False)
    assert read_request({"body": json.dumps(payload).encode()}, 4)[:2] == ([b"one", b"two"], False)


@pytest.mark.parametrize("before", [b"", b" \r\n\t", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n"])
def test_json_may_begin_with_a_byte_order_mark(before: bytes) -> None:
    body = before + json.dumps({"instances": [{"b64": _b64(b"one")}]}).encode()
    assert read_request({"body": body}, 4)[:2] == ([b"one"], False)
    assert read_request({"body": bytearray(body)}, 4)[:2] == ([b"one"], False)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({}, "neither"),
        ({"body": b""}, "no body"),
        ({"body": b'{"instances": '}, "JSON cannot be read"),
        ({"body": {"instances": []}}, "neither"),
        ({"body": {"images": []}}, "neither"),
        ({"body": [1, 2]}, "neither"),
        ({"body": {"instances": ["x"]}}, "Instance 0"),
        ({"body": {"instances": [{"b64": _b64(b"ok")}, {"b64": "***"}]}}, "Instance 1"),
        ({"body": {"instances": [{"b64": 5}]}}, "Instance 0"),
        ({"body": {"instances": [{"b64": ""}] * 5}}, "too many"),
    ],
)
def test_other_requests_are_refused_with_a_reason(row: Mapping[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_request(row, 4)


def test_base64_may_be_in_lines_or_a_data_url() -> None:
    image = bytes(range(256))
    lines = base64.encodebytes(image).decode()
    assert "\n" in lines.strip()
    texts = [
        lines,
        lines.replace("\n", "\r\n"),
        f"data:image/jpeg;base64,{_b64(image)}",
        f"DATA:image/png;BASE64,{lines}",
    ]
    body = json.dumps({"instances": [{"b64": text} for text in texts]}).encode()
    assert read_request({"body": body}, 4)[:2] == ([image] * 4, False)


@pytest.mark.parametrize(
    "text",
    ["data:text/html;base64,AAAA", "data:image/svg+xml,<svg/>", "data:image/png;base64", "_-_-", "AAA", "AA\u00e9A"],
)
def test_other_texts_are_no_images(text: str) -> None:
    with pytest.raises(InputError, match="Instance 0 cannot be read") as caught:
        read_request({"body": {"instances": [{"b64": text}]}}, 4)
    assert "svg/>" not in str(caught.value)


def test_compressed_bodies_are_refused_on_purpose() -> None:
    for row, encoding in (
        ({"body": gzip.compress(b"x")}, None),
        ({"body": b"\xff\xd8"}, "gzip"),
        ({"body": b"x"}, "br"),
    ):
        with pytest.raises(InputError, match="compressed"):
            read_request(row, 4, encoding)
    assert read_request({"body": b"\xff\xd8"}, 4, "identity").images == [b"\xff\xd8"]


def test_a_form_is_refused_without_repeating_it() -> None:
    """What curl's --data-binary sends unless it is told a type: the picture was taken for the name of a field."""
    with pytest.raises(InputError, match="sent as a form") as caught:
        read_request({"my secret": "picture"}, 4)
    assert "secret" not in str(caught.value)
    assert "curl -T" in str(caught.value)


def test_deep_json_in_every_disguise_is_refused() -> None:
    for deep in (b"[" * 100_000, b'{"a":' * 100_000, b'{"instances": ' + b"[" * 100_000):
        body = deep if deep[:1] == b"{" else b'{"instances": ' + deep
        with pytest.raises(InputError, match="JSON cannot be read"):
            read_request({"body": body}, 4)


def test_what_is_wanted_is_said_by_json_or_a_header() -> None:
    assert read_request({"body": b"\xff\xd8"}, 4)[2:] == (("embedding",), "json")
    assert read_request({"body": b"\xff\xd8"}, 4, wanted="cls, pca").views == ("cls", "pca")
    body = json.dumps({"instances": [{"b64": "AAAA"}], "want": ["patches"]}).encode()
    assert read_request({"body": body}, 4, wanted="cls").views == ("patches",)
    assert read_request({"body": b"\xff\xd8"}, 4, accept="application/octet-stream;dtype=float16").form == "float16"
    for refused in (
        {"wanted": "soul"},
        {"accept": "image/png"},
        {"wanted": "cls", "accept": "application/octet-stream"},
    ):
        with pytest.raises(InputError):
            read_request({"body": b"\xff\xd8"}, 4, **refused)
