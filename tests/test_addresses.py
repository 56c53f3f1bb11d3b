"""What is shown of an address: never who, and never a password."""

from __future__ import annotations

import pytest

from dinomill.addresses import has_secret, redact


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://me:hush@host/x", "https://…@host/x"),
        ("http://me:hu@sh@host", "http://…@host"),
        ("postgresql://me:hu/sh@host/db", "postgresql://…@host/db"),
        ("postgresql://h/db?user=me&password=hush", "postgresql://h/db?user=me&password=…"),
        ("postgresql://h/db?sslpassword=hush&sslmode=require", "postgresql://h/db?sslpassword=…&sslmode=require"),
        ("https://host/x?access_token=hush", "https://host/x?access_token=…"),
        ("https://host/x?a=1&X-Amz-Signature=hush", "https://host/x?a=1&X-Amz-Signature=…"),
        ("az://blob.host/x?sv=1&sig=hush", "az://blob.host/x?sv=1&sig=…"),
    ],
)
def test_no_secret_is_shown(address: str, shown: str) -> None:
    assert redact(address) == redact(shown) == shown
    assert redact(f"(could not connect to '{address}')") == f"(could not connect to '{shown}')"
    assert has_secret(address) and not has_secret(shown)


@pytest.mark.parametrize(
    "address",
    [
        "models:/name@champion",
        "sqlite:////a/me@work/mlflow.db",
        "http://host:5000/runs/x@2",
        "http://[::1]:5000/#/experiments",
        "s3://bucket/a@b",
        "postgresql://h/db?sslmode=require&num_tokens_shown",
    ],
)
def test_what_is_no_secret_stays(address: str) -> None:
    assert redact(address) == address
