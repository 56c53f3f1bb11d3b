"""S3 through boto3: listing, reading, writing; the ordinary credential chain, retries, and errors without secrets.

The endpoint of another server than Amazon's is ``AWS_ENDPOINT_URL``, as for every AWS tool.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from dinomill.errors import DinomillError, InputError, StorageError
from dinomill.storage.atomic import storage_errors

_SCHEME = "s3://"
_ATTEMPTS = 6  # of reading a body that was cut
_REQUEST_ATTEMPTS = 4  # of each request, with growing pauses: some ten seconds until a dead server is said to be one
_THERE_ALREADY = ("PreconditionFailed", "ConditionalRequestConflict", "412", "409")
_ACTIONS = {
    "InvalidAccessKeyId": "check AWS_ACCESS_KEY_ID, or the profile in AWS_PROFILE",
    "SignatureDoesNotMatch": "check AWS_SECRET_ACCESS_KEY: it does not belong to the access key",
    "AccessDenied": "ask for the right to list and read that prefix",
    "NoSuchBucket": "check the bucket's name and AWS_ENDPOINT_URL",
    "NoSuchKey": "list the source again: the object was removed",
    "403": "check the access key, its secret, and its rights on that bucket",
    "404": "check the bucket's name and AWS_ENDPOINT_URL",
}


class S3Object(NamedTuple):
    """One object under a prefix."""

    path: str  # the key, less the prefix
    size: int  # bytes
    etag: str


def is_uri(place: str) -> bool:
    """Whether a source is an ``s3://`` URI."""
    return place.startswith(_SCHEME)


def split_uri(uri: str) -> tuple[str, str]:
    """``s3://bucket/some/prefix`` as ``("bucket", "some/prefix")``.

    Raises:
        InputError: When it names no bucket.
    """
    bucket, _, key = uri.removeprefix(_SCHEME).partition("/")
    if not is_uri(uri) or not bucket:
        raise InputError(f"{uri!r} names no bucket.", expected="s3://bucket/prefix", action="correct the source's URI")
    return bucket, key


def list_objects(uri: str) -> Iterator[S3Object]:
    """Every object under a prefix, page by page, in the order of the keys.

    Raises:
        StorageError: When the server does not answer or refuses.
    """
    bucket, prefix = split_uri(uri)
    folder = f"{prefix.rstrip('/')}/" if prefix else ""
    try:
        for page in client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=folder):
            for entry in page.get("Contents", ()):
                path = entry["Key"][len(folder) :]
                if path and not path.endswith("/"):  # a marker of an empty folder is no object of ours
                    yield S3Object(path, entry["Size"], entry["ETag"].strip('"'))
    except Exception as error:
        raise storage_error(f"Cannot list {uri}.", error) from None


def read_object(uri: str, path: str = "", *, start: int = 0, length: int | None = None) -> bytes:
    """The bytes of ``<uri>/<path>``, or a range of them. A connection cut in the middle is tried again.

    Raises:
        StorageError: When the server does not answer, refuses, or keeps cutting the connection.
    """
    bucket, key = split_uri(f"{uri.rstrip('/')}/{path}" if path else uri)
    wanted = (
        {}
        if start == 0 and length is None
        else {"Range": f"bytes={start}-{'' if length is None else start + length - 1}"}
    )
    last: Exception | None = None
    for _ in range(_ATTEMPTS):
        try:
            answer = client().get_object(Bucket=bucket, Key=key, **wanted)
            return bytes(answer["Body"].read())
        except Exception as error:
            # boto3 retries requests but not a body that stops half-way.
            if not _is_cut(error):
                raise storage_error(f"Cannot read s3://{bucket}/{key}.", error) from None
            last = error
    assert last is not None
    raise storage_error(f"Cannot read s3://{bucket}/{key}: the connection was cut {_ATTEMPTS} times.", last) from None


def write_object(uri: str, data: bytes) -> None:
    """Write an object whole.

    Raises:
        StorageError: When the server does not answer or refuses.
    """
    bucket, key = split_uri(uri)
    try:
        client().put_object(Bucket=bucket, Key=key, Body=data)
    except Exception as error:
        raise storage_error(f"Cannot write {uri}.", error) from None


def create_object(uri: str, data: bytes) -> bool:
    """Write an object that is not there yet; False where one is, which stays as it is.

    Of several who write at once one wins: the server decides (``If-None-Match``). Servers that do not know the
    condition write over what is there; therefore it is asked before, too.

    Raises:
        StorageError: When the server does not answer or refuses.
    """
    from botocore.exceptions import ClientError

    if object_size(uri) is not None:
        return False
    bucket, key = split_uri(uri)
    try:
        client().put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
    except ClientError as error:
        if is_there_already(error):
            return False
        raise storage_error(f"Cannot write {uri}.", error) from None
    except Exception as error:
        raise storage_error(f"Cannot write {uri}.", error) from None
    return True


def object_size(uri: str) -> int | None:
    """Bytes of an object; None where there is none.

    Raises:
        StorageError: When the server does not answer or refuses.
    """
    from botocore.exceptions import ClientError

    bucket, key = split_uri(uri)
    try:
        return int(client().head_object(Bucket=bucket, Key=key)["ContentLength"])
    except ClientError as error:
        if str(error.response.get("Error", {}).get("Code", "")) in ("404", "NoSuchKey"):
            return None
        raise storage_error(f"Cannot look at {uri}.", error) from None
    except Exception as error:
        raise storage_error(f"Cannot look at {uri}.", error) from None


def upload_file(path: Path, uri: str, advance: Callable[[int], None] | None = None) -> None:
    """Write a file as an object, in parts where it is large; the server checks a checksum of each.

    Args:
        path: What is written.
        uri: The object.
        advance: Called with the bytes that went since the last call, from several threads.

    Raises:
        StorageError: When the server does not answer or refuses.
    """
    bucket, key = split_uri(uri)
    try:
        client().upload_file(str(path), bucket, key, Callback=advance)
    except Exception as error:
        raise storage_error(f"Cannot write {uri}.", error) from None


def download_file(uri: str, path: Path, advance: Callable[[int], None] | None = None) -> None:
    """Write an object to a file.

    Args:
        uri: The object.
        path: The file.
        advance: Called with the bytes that came since the last call, from several threads; an error of it ends the
            download.

    Raises:
        StorageError: When the server does not answer or refuses, or the disk is full.
    """
    bucket, key = split_uri(uri)
    try:
        with storage_errors(path):
            client().download_file(bucket, key, str(path), Callback=advance)
    except DinomillError:
        raise
    except Exception as error:
        raise storage_error(f"Cannot read {uri}.", error) from None


def delete_object(uri: str) -> None:
    """Remove an object; one that is not there is no error.

    Raises:
        StorageError: When the server does not answer or refuses.
    """
    bucket, key = split_uri(uri)
    try:
        client().delete_object(Bucket=bucket, Key=key)
    except Exception as error:
        raise storage_error(f"Cannot remove {uri}.", error) from None


@lru_cache(maxsize=1)
def client() -> Any:
    """One client a process: it is safe between threads and keeps its connections."""
    import boto3
    from botocore.config import Config

    settings = Config(
        retries={"mode": "adaptive", "total_max_attempts": _REQUEST_ATTEMPTS},
        connect_timeout=10,
        read_timeout=60,
        max_pool_connections=32,
    )
    return boto3.client("s3", config=settings)


def _is_cut(error: Exception) -> bool:
    from botocore.exceptions import (
        ConnectionClosedError,
        ConnectTimeoutError,
        HTTPClientError,
        IncompleteReadError,
        ReadTimeoutError,
        ResponseStreamingError,
    )

    cuts = (
        ConnectionClosedError,
        ConnectTimeoutError,
        HTTPClientError,
        IncompleteReadError,
        ReadTimeoutError,
        ResponseStreamingError,
    )
    return isinstance(error, cuts)


def is_there_already(error: Any) -> bool:
    """Whether a server's answer says that an object was not written because there is one."""
    return str(error.response.get("Error", {}).get("Code", "")) in _THERE_ALREADY


def storage_error(problem: str, error: Exception) -> StorageError:
    """An error that says what the server said, and never repeats a key or a signed URL."""
    from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError, PartialCredentialsError

    if isinstance(error, ClientError):
        code = str(error.response.get("Error", {}).get("Code", ""))
        return StorageError(
            problem, found=f"the server answered {code}", action=_ACTIONS.get(code, "see the server's log")
        )
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        return StorageError(
            problem, found="no credentials", action="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        )
    if isinstance(error, EndpointConnectionError):
        return StorageError(problem, found="no server answers there", action="check AWS_ENDPOINT_URL and the network")
    return StorageError(
        problem, found=type(error).__name__, action="check the network, then run the same command again"
    )
