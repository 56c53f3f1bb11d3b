"""A file as a new object: in parts where it is large, each with a checksum, and only where there is none.

boto3's own transfer of files takes no condition; the requests below are those that it makes.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from dinomill.storage import s3

log = logging.getLogger(__name__)

PART = 8 * 2**20  # bytes; S3 takes 10,000 parts of at least 5 MB
_AT_ONCE = 4
_CHECKSUM = "CRC32"  # every server knows it


def upload_new(path: Path, uri: str, advance: Callable[[int], None] | None = None) -> bool:
    """Write a file as an object that is not there yet; False where one is, which stays as it is.

    Killed in the middle it leaves no object; the server keeps the parts until they are aborted (`abort_unfinished`).

    Args:
        path: What is written.
        uri: The object.
        advance: Called with the bytes that went since the last call, from several threads.

    Raises:
        StorageError: When the server does not answer or refuses.
    """
    from botocore.exceptions import ClientError

    bucket, key = s3.split_uri(uri)
    try:
        if path.stat().st_size <= PART:
            data = path.read_bytes()
            s3.client().put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*", ChecksumAlgorithm=_CHECKSUM)
            if advance is not None:
                advance(len(data))
        else:
            _in_parts(path, bucket, key, advance)
    except ClientError as error:
        if s3.is_there_already(error):
            return False
        raise s3.storage_error(f"Cannot write {uri}.", error) from None
    except Exception as error:
        raise s3.storage_error(f"Cannot write {uri}.", error) from None
    return True


def abort_unfinished(uri: str, *, hours: float = 24) -> int:
    """Remove what killed uploads left below a prefix; how many there were.

    Args:
        uri: ``s3://bucket/prefix``.
        hours: Younger ones stay: somebody may be at them.

    Raises:
        StorageError: When the server does not answer or refuses.
    """
    bucket, prefix = s3.split_uri(uri)
    before, found = datetime.now(UTC) - timedelta(hours=hours), 0
    try:
        pages = s3.client().get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=f"{prefix}/")
        for upload in [one for page in pages for one in page.get("Uploads", ())]:
            if upload["Initiated"] <= before:
                s3.client().abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
                found += 1
    except Exception as error:
        raise s3.storage_error(f"Cannot clear unfinished uploads below {uri}.", error) from None
    return found


def _in_parts(path: Path, bucket: str, key: str, advance: Callable[[int], None] | None) -> None:
    where: dict[str, Any] = {"Bucket": bucket, "Key": key}
    where["UploadId"] = s3.client().create_multipart_upload(**where, ChecksumAlgorithm=_CHECKSUM)["UploadId"]
    try:
        with path.open("rb") as file, ThreadPoolExecutor(_AT_ONCE) as pool:

            def send(number: int) -> dict[str, Any]:
                data = os.pread(file.fileno(), PART, (number - 1) * PART)
                sent = s3.client().upload_part(**where, PartNumber=number, Body=data, ChecksumAlgorithm=_CHECKSUM)
                if advance is not None:
                    advance(len(data))
                return {"PartNumber": number} | {
                    name: sent[name] for name in ("ETag", f"Checksum{_CHECKSUM}") if name in sent
                }

            parts = list(pool.map(send, range(1, -(-path.stat().st_size // PART) + 1)))
        s3.client().complete_multipart_upload(**where, MultipartUpload={"Parts": parts}, IfNoneMatch="*")
    except BaseException:
        with suppress(Exception):  # what went wrong before counts
            s3.client().abort_multipart_upload(**where)
        raise
