"""S3 against a real SeaweedFS server: listing, ranges, a wrong secret, a connection that is cut in the middle."""

from __future__ import annotations

import contextlib
import io
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinomill.curation.config import CurationConfig
from dinomill.curation.scan.scan import ScanConfig, scan
from dinomill.curation.scan.tables import read_files
from dinomill.curation.stage import curate
from dinomill.errors import InputError, StorageError
from dinomill.execution.tasks import ExecutionConfig
from dinomill.storage import s3
from dinomill.storage.hashing import hash_file
from tests.seaweedfs import ACCESS_KEY, SECRET, free_ports, make_bucket, s3_server

BUCKET = "s3://pool-of-images"


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with s3_server(tmp_path_factory.mktemp("weed")) as listening:
        yield listening


@pytest.fixture
def credentials(port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    _use(monkeypatch, f"http://127.0.0.1:{port}", SECRET)
    make_bucket(s3.split_uri(BUCKET)[0])
    yield monkeypatch
    s3.client.cache_clear()


def _use(monkeypatch: pytest.MonkeyPatch, endpoint: str, secret: str) -> None:
    import boto3

    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    s3.client.cache_clear()


class CuttingProxy:
    """Passes bytes on to the server, and hangs up in the middle of the first answers that are long."""

    def __init__(self, port: int, cuts: int) -> None:
        self.left, self.cut, self._port = cuts, 0, port
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._port))
            threading.Thread(target=self._pass, args=(client, server, False), daemon=True).start()
            threading.Thread(target=self._pass, args=(server, client, True), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        passed = 0
        try:
            while data := source.recv(16_384):
                passed += len(data)
                target.sendall(data)
                if answers and passed > 60_000 and self.left:
                    self.left -= 1
                    self.cut += 1
                    break
        except OSError:
            pass
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)  # closing alone waits for the other direction's thread
            one.close()

    def close(self) -> None:
        self._socket.close()


def _png(seed: int) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_listing_and_ranges(credentials: pytest.MonkeyPatch) -> None:
    for name in ("a/1.bin", "a/b/2.bin", "ab/3.bin"):
        s3.write_object(f"{BUCKET}/{name}", name.encode() * 10)
    assert [entry.path for entry in s3.list_objects(f"{BUCKET}/a")] == ["1.bin", "b/2.bin"]
    assert s3.read_object(f"{BUCKET}/a", "1.bin") == b"a/1.bin" * 10
    assert s3.read_object(f"{BUCKET}/a/1.bin", start=7, length=7) == b"a/1.bin"


def test_a_cut_connection_is_tried_again(credentials: pytest.MonkeyPatch, port: int) -> None:
    content = np.random.default_rng(0).bytes(400_000)
    s3.write_object(f"{BUCKET}/large.bin", content)
    proxy = CuttingProxy(port, cuts=3)
    try:
        _use(credentials, proxy.endpoint, SECRET)
        assert s3.read_object(f"{BUCKET}/large.bin") == content
        assert proxy.cut == 3
    finally:
        proxy.close()


def test_a_wrong_secret_is_a_message_without_the_secret(credentials: pytest.MonkeyPatch, port: int) -> None:
    _use(credentials, f"http://127.0.0.1:{port}", "wrong-secret-here")
    with pytest.raises(StorageError) as caught:
        list(s3.list_objects(f"{BUCKET}/a"))
    message = str(caught.value)
    assert "AWS_SECRET_ACCESS_KEY" in message
    assert "wrong-secret-here" not in message and SECRET not in message


def test_a_missing_bucket_and_a_dead_endpoint_say_so(credentials: pytest.MonkeyPatch) -> None:
    with pytest.raises(StorageError, match="Cannot list") as caught:
        list(s3.list_objects("s3://there-is-none/a"))
    assert "AWS_ENDPOINT_URL" in str(caught.value)
    _use(credentials, f"http://127.0.0.1:{free_ports(1)[0]}", SECRET)
    with pytest.raises(StorageError, match="Cannot read") as caught:
        s3.read_object(f"{BUCKET}/a/1.bin")
    assert "no server answers" in str(caught.value)


def test_a_uri_without_a_bucket_is_refused() -> None:
    with pytest.raises(InputError, match="names no bucket"):
        s3.split_uri("s3:///key")


def test_a_prefix_is_scanned_like_a_folder(credentials: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for number in range(6):
        s3.write_object(f"{BUCKET}/scan/{number}.png", _png(number))
    s3.write_object(f"{BUCKET}/scan/bad.png", b"nothing")
    handle = scan(
        {"pool": [f"{BUCKET}/scan"]},
        ScanConfig(files_per_task=2),
        folder=tmp_path / "scan",
        work=tmp_path / "work",
        execution=ExecutionConfig(executor="processes", workers=2),
    )
    reasons = {row["path"]: row["reason"] for row in read_files(handle, ["path", "reason"]).to_pylist()}
    assert reasons == {f"{n}.png": None for n in range(6)} | {"bad.png": "not_an_image"}
    left = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert SECRET.encode() not in left


def _curation(root: Path) -> CurationConfig:
    names = ("scan", "quality", "embeddings", "duplicates", "selection", "curated", "work")
    settings = {
        "folders": {name: root / name for name in names},
        "execution": {"executor": "inline"},
        "scan": {"files_per_task": 5},
        "gate": {"docs": False},
        "embedding": {"embedder": {"image_size": 32, "precision": "float32"}, "images_per_task": 10},
    }
    return CurationConfig.model_validate(settings)


def _written(root: Path) -> bytes:
    return b"".join(path.read_bytes() for path in root.rglob("*") if path.is_file())


def test_curation_of_a_prefix_with_cut_connections_is_that_of_the_folder(
    credentials: pytest.MonkeyPatch, port: int, tmp_path: Path
) -> None:
    (tmp_path / "pool").mkdir()
    for number in range(20):
        file = io.BytesIO()
        pixels = np.random.default_rng(number % 18).integers(0, 255, (160, 160, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file, "PNG")  # 77 kB: longer than what passes before a cut
        (tmp_path / "pool" / f"{number}.png").write_bytes(file.getvalue())
        s3.write_object(f"{BUCKET}/curated/{number}.png", file.getvalue())
    local = curate([str(tmp_path / "pool")], None, None, _curation(tmp_path / "local"))
    proxy = CuttingProxy(port, cuts=4)
    try:
        _use(credentials, proxy.endpoint, SECRET)
        remote = curate([f"{BUCKET}/curated"], None, None, _curation(tmp_path / "remote"))
    finally:
        proxy.close()
    assert proxy.cut == 4
    assert remote.fates == local.fates == {"kept": 18, "exact_duplicate": 2}
    assert [hash_file(shard) for shard in remote.shards] == [hash_file(shard) for shard in local.shards]
    assert SECRET.encode() not in _written(tmp_path / "remote")


def test_curation_with_a_wrong_secret_says_so_and_keeps_it_to_itself(
    credentials: pytest.MonkeyPatch, port: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    s3.write_object(f"{BUCKET}/secret/1.png", _png(1))
    _use(credentials, f"http://127.0.0.1:{port}", "wrong-secret-here")
    with pytest.raises(StorageError, match=f"Cannot list {BUCKET}/secret") as caught:
        curate([f"{BUCKET}/secret"], None, None, _curation(tmp_path))
    assert "the server answered SignatureDoesNotMatch" in str(caught.value)
    assert "AWS_SECRET_ACCESS_KEY" in str(caught.value)
    said = str(caught.value) + "".join(capfd.readouterr())
    assert "wrong-secret-here" not in said and b"wrong-secret-here" not in _written(tmp_path)
