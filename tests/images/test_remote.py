from __future__ import annotations

import os
import pickle
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dinomill.errors import InputError, StorageError
from dinomill.handles import DatasetHandle
from dinomill.images.crop_plan import MultiCropConfig
from dinomill.images.loader import TrainingLoader
from dinomill.images.loader_config import LoaderConfig
from dinomill.images.masking import MaskingConfig
from dinomill.images.remote import RemoteShards
from dinomill.images.shards import Location, ShardReader
from dinomill.storage import s3
from tests.seaweedfs import ACCESS_KEY, SECRET, s3_server

Make = Callable[..., DatasetHandle]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real S3 server on this machine; its endpoint."""
    with s3_server(tmp_path_factory.mktemp("weed")) as port:
        yield f"http://127.0.0.1:{port}"


def connect_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read the credentials again: boto3 and our client both remember them."""
    import boto3

    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    s3.client.cache_clear()


@pytest.fixture
def credentials(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    values = {"AWS_ENDPOINT_URL": server, "AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
    for name, value in {**values, "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}.items():
        monkeypatch.setenv(name, value)
    connect_anew(monkeypatch)
    yield monkeypatch
    s3.client.cache_clear()


@pytest.fixture
def uploaded(
    credentials: pytest.MonkeyPatch, dataset: Make, tiny_images: list[np.ndarray[Any, Any]]
) -> tuple[DatasetHandle, str]:
    """A dataset of three shards whose shards are on the server only."""
    handle = dataset(tiny_images)
    prefix = "s3://images/curated/shards"
    deadline = time.monotonic() + 60
    while True:  # the server answers before its storage is ready
        try:
            s3.client().create_bucket(Bucket="images")
            for shard in handle.shards:
                s3.write_object(f"{prefix}/{shard.name}", shard.read_bytes())
            return handle, prefix
        except Exception as error:
            if "BucketAlready" in str(error):
                for shard in handle.shards:
                    s3.write_object(f"{prefix}/{shard.name}", shard.read_bytes())
                return handle, prefix
            assert time.monotonic() < deadline, error
            time.sleep(0.5)


def places(handle: DatasetHandle) -> list[Location]:
    from dinomill.images.manifest import read_kept

    kept = read_kept(handle.manifest)
    return [Location(*(int(v) for v in row)) for row in zip(kept.shards, kept.offsets, kept.lengths, strict=True)]


def count_requests(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    requests: list[int] = []
    original = s3.read_object

    def counted(uri: str, path: str = "", *, start: int = 0, length: int | None = None) -> bytes:
        requests.append(length or 0)
        return original(uri, path, start=start, length=length)

    monkeypatch.setattr(s3, "read_object", counted)
    return requests


def test_images_are_read_by_range_once(
    uploaded: tuple[DatasetHandle, str], credentials: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    handle, prefix = uploaded
    names = [path.name for path in handle.shards]
    local, requests = ShardReader(handle.shards), count_requests(credentials)
    remote = RemoteShards(prefix, names, cache=tmp_path, cache_bytes=10**9)
    for place in places(handle):
        assert bytes(remote.read(place)) == bytes(local.read(place))
    first = len(requests)
    assert 0 < first < len(places(handle)) / 3  # neighbours come with their block
    remote.prepare(places(handle))
    again = pickle.loads(pickle.dumps(remote))  # another process, the same cache
    for place in places(handle)[::-1]:
        assert bytes(again.read(place)) == bytes(local.read(place))
    assert len(requests) == first


def test_a_full_cache_reads_through(
    uploaded: tuple[DatasetHandle, str], credentials: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    handle, prefix = uploaded
    names = [path.name for path in handle.shards]
    local, requests = ShardReader(handle.shards), count_requests(credentials)
    remote = RemoteShards(prefix, names, cache=tmp_path, cache_bytes=70_000)
    for _ in range(2):
        for place in places(handle):
            assert bytes(remote.read(place)) == bytes(local.read(place))
    assert sum(path.stat().st_blocks * 512 for path in tmp_path.rglob("*.tar")) <= 70_000
    assert len(requests) > len(places(handle))


def test_training_reads_from_s3_what_it_would_read_here(uploaded: tuple[DatasetHandle, str], tmp_path: Path) -> None:
    handle, prefix = uploaded
    settings: dict[str, Any] = {
        "crops": MultiCropConfig(global_size=28, local_size=14, local_crops=2),
        "masking": MaskingConfig(),
        "patch_size": 7,
        "batch_size": 16,
        "seed": 0,
        "steps": 6,
    }
    expected = list(TrainingLoader(handle, **settings))
    for kind in ("threads", "processes"):
        config = LoaderConfig(shards=prefix, shard_cache=tmp_path / kind, cache_mb=0, workers=2, kind=kind)
        with TrainingLoader(handle, **settings, loader=config) as loader:
            for one, two in zip(expected, loader, strict=True):
                assert torch.equal(one.global_crops, two.global_crops)


def test_missing_shards_and_a_wrong_secret_are_messages(
    uploaded: tuple[DatasetHandle, str], credentials: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _, prefix = uploaded
    with pytest.raises(InputError, match="lacks 1 of the dataset's 2 shards"):
        RemoteShards(prefix, ["images-00000.tar", "images-00099.tar"], cache=tmp_path, cache_bytes=1)
    credentials.setenv("AWS_SECRET_ACCESS_KEY", "a wrong one")
    connect_anew(credentials)
    with pytest.raises(StorageError) as caught:
        RemoteShards(prefix, ["images-00000.tar"], cache=tmp_path, cache_bytes=1)
    assert "AWS_SECRET_ACCESS_KEY" in str(caught.value)
    assert "a wrong one" not in str(caught.value)
    assert SECRET not in (caught.value.found or "")
    assert os.environ["AWS_ACCESS_KEY_ID"] == ACCESS_KEY
