"""The model store against a real SeaweedFS server: versions that never change, whatever is killed, raced or damaged."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from dinomill.commands.publish import HASH_TAG, PLACE_TAG, _packaged_version, package_at, serve_address, settings_of
from dinomill.errors import DinomillError, InputError, Interrupted, StorageError
from dinomill.handles import HANDLE_NAME, PackageHandle, RegistrationHandle
from dinomill.serving.fetched import hold
from dinomill.serving.model_store import MANIFEST, Manifest, Published, fetch, publish
from dinomill.serving.torchserve.archive import BatchingConfig, build_archive
from dinomill.serving.torchserve.properties import ServerConfig
from dinomill.storage import s3
from dinomill.storage.hashing import hash_bytes, hash_file
from dinomill.tracking.connection import connect
from dinomill.tracking.registry import resolve, set_tags
from tests.seaweedfs import ACCESS_KEY, SECRET, free_ports, make_bucket, s3_server

WEIGHTS = "5" * 64


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with s3_server(tmp_path_factory.mktemp("weed")) as listening:
        yield listening


@pytest.fixture
def store(port: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    import boto3

    for name, value in _environment(port).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    s3.client.cache_clear()
    make_bucket("models")
    yield f"s3://models/{tmp_path.name}"
    s3.client.cache_clear()


def _environment(port: int) -> dict[str, str]:
    return {
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
    }


@pytest.fixture(scope="module")
def archive(backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    server = ServerConfig(threads=1)
    folder = tmp_path_factory.mktemp("store")
    return build_archive(backbone, folder, model="mill", version="3", batching=BatchingConfig(), server=server)


@pytest.fixture
def package(archive: Path, tmp_path: Path) -> Path:
    return _package(archive, tmp_path / "package")


def _package(archive: Path, folder: Path, note: str = "how to serve it\n") -> Path:
    (folder / "model_store").mkdir(parents=True)
    shutil.copy(archive, folder / "model_store")
    (folder / "README.md").write_text(note)
    PackageHandle(
        folder=Path("data/package"),
        made_of="",
        archive=Path("data/package/model_store") / archive.name,
        archive_sha256=hash_file(archive),
        model="mill",
        version=3,
        embed_dim=192,
        smoke={},
    ).save(folder)
    return folder


def _contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): hash_file(path) for path in folder.rglob("*") if path.is_file()}


def test_what_is_fetched_is_what_was_published(store: str, package: Path, tmp_path: Path) -> None:
    done = publish(package, store)
    assert (done.uri, done.fresh) == (f"{store}/mill/3", True)
    fetched = fetch(done.uri, sha256=done.sha256, cache=tmp_path / "cache")
    assert _contents(fetched) == _contents(package)
    assert PackageHandle.load(fetched).version == 3
    written = {path: path.stat().st_mtime_ns for path in fetched.rglob("*")}
    assert fetch(done.uri + "/", cache=tmp_path / "cache") == fetched
    assert {path: path.stat().st_mtime_ns for path in fetched.rglob("*")} == written


def test_publishing_again_changes_nothing(store: str, package: Path) -> None:
    first = publish(package, store)
    again = publish(package, store)
    assert (again.uri, again.sha256, again.fresh) == (first.uri, first.sha256, False)


def test_a_version_never_changes(store: str, archive: Path, package: Path, tmp_path: Path) -> None:
    done = publish(package, store)
    with pytest.raises(InputError, match=r"holds another package already(.|\n)*README\.md"):
        publish(_package(archive, tmp_path / "other", "another\n"), store)
    assert hash_bytes(s3.read_object(f"{done.uri}/{MANIFEST}")) == done.sha256


def test_of_many_who_publish_at_once_one_wins_and_the_others_hear_of_it(
    store: str, archive: Path, tmp_path: Path
) -> None:
    packages = [_package(archive, tmp_path / f"package{number}", f"number {number}\n") for number in range(6)]

    def attempt(package: Path) -> Published | DinomillError:
        try:
            return publish(package, store)
        except InputError as error:
            return error

    with ThreadPoolExecutor(len(packages)) as pool:
        results = list(pool.map(attempt, packages))
    winners = [number for number, result in enumerate(results) if isinstance(result, Published) and result.fresh]
    assert len(winners) == 1
    assert sum(isinstance(result, InputError) for result in results) == len(packages) - 1
    fetched = fetch(f"{store}/mill/3", cache=tmp_path / "cache")
    assert _contents(fetched) == _contents(packages[winners[0]])


_KILLED = """
import os, signal, sys
from pathlib import Path
from dinomill.serving import model_store
from dinomill.storage import s3_parts
upload, sent = s3_parts.upload_new, []
def upload_some(path, uri, advance=None):
    if len(sent) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    sent.append(uri)
    return upload(path, uri, advance)
s3_parts.upload_new = upload_some
model_store.publish(Path(sys.argv[1]), sys.argv[2])
"""


def test_killed_half_way_nothing_is_published_and_the_next_try_is(
    store: str, port: int, package: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", _KILLED, str(package), store]
    assert subprocess.run(command, env=os.environ | _environment(port), check=False).returncode == -signal.SIGKILL
    with pytest.raises(InputError, match="holds no package"):
        fetch(f"{store}/mill/3", cache=tmp_path / "cache")
    assert publish(package, store).fresh
    assert _contents(fetch(f"{store}/mill/3", cache=tmp_path / "cache")) == _contents(package)


def test_what_is_damaged_in_the_store_is_refused_and_leaves_nothing(store: str, package: Path, tmp_path: Path) -> None:
    done = publish(package, store)
    manifest = Manifest.parse(s3.read_object(f"{done.uri}/{MANIFEST}"), "")
    note = next(one for one in manifest.files if one.name == "README.md")
    s3.write_object(f"{done.uri}/{note.sha256[:16]}/README.md", b"how to serve IT\n")
    with pytest.raises(StorageError, match=r"is damaged(.|\n)*README\.md is not what"):
        fetch(done.uri, cache=tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


@pytest.mark.parametrize("name", [".DS_Store", "model_store/.DS_Store", "notes/of/mine.txt", "two words.txt"])
def test_an_odd_file_in_the_package_is_named(store: str, package: Path, name: str) -> None:
    (package / name).parent.mkdir(parents=True, exist_ok=True)
    (package / name).write_text("x")
    with pytest.raises(InputError, match=rf"holds files that no package has(.|\n)*found: {name}\n"):
        publish(package, store)
    assert s3.object_size(f"{store}/mill/3/{MANIFEST}") is None


def test_a_look_at_what_is_there_hashes_nothing_that_has_not_changed(
    store: str, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = publish(package, store)
    fetched = fetch(done.uri, cache=tmp_path / "cache")
    read: list[str] = []

    def counted(path: Path) -> str:
        read.append(path.name)
        return hash_file(path)

    monkeypatch.setattr("dinomill.serving.fetched.hash_file", counted)
    assert fetch(done.uri, cache=tmp_path / "cache") == fetched
    assert read == []
    times = (fetched / "README.md").stat()
    (fetched / "README.md").write_text("how to serve IT\n")
    os.utime(fetched / "README.md", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert fetch(done.uri, cache=tmp_path / "cache") == fetched
    assert read[0] == "README.md"
    assert _contents(fetched) == _contents(package)


def test_versions_that_nobody_uses_any_more_are_removed(store: str, archive: Path, tmp_path: Path) -> None:
    """Of five that were fetched one after the other stay the last two, and one that is served elsewhere."""
    cache, fetched = tmp_path / "cache", list[Path]()
    for number in range(5):
        package = _package(archive, tmp_path / f"package{number}", f"number {number}\n")
        fetched.append(fetch(publish(package, f"{store}/{number}").uri, cache=cache))
        if number == 1:
            served = hold(fetched[1])
        os.utime(fetched[-1], (number, number))  # as if it were long ago
    assert [folder.exists() for folder in fetched] == [False, True, False, True, True]
    assert served is not None
    os.close(served)


def test_a_download_that_is_told_to_stop_does_and_leaves_nothing(store: str, package: Path, tmp_path: Path) -> None:
    done, asked = publish(package, store), list[int]()

    def go_on() -> None:
        asked.append(1)
        if len(asked) == 4:  # in the middle of a file
            raise Interrupted("Told to stop.")

    with pytest.raises(Interrupted):
        fetch(done.uri, cache=tmp_path / "cache", go_on=go_on)
    assert not list((tmp_path / "cache").rglob("*"))
    assert _contents(fetch(done.uri, cache=tmp_path / "cache")) == _contents(package)


def test_what_is_damaged_on_this_machine_is_fetched_again(store: str, package: Path, tmp_path: Path) -> None:
    done = publish(package, store)
    fetched = fetch(done.uri, cache=tmp_path / "cache")
    (fetched / "model_store" / "mill.mar").write_bytes(b"cut off")
    assert fetch(done.uri, cache=tmp_path / "cache") == fetched
    assert _contents(fetched) == _contents(package)


@pytest.mark.parametrize("name", ["../evil", "/etc/passwd", "a/b/c", "model_store/../../evil", ".ssh/keys", ""])
def test_a_name_that_leads_out_of_the_package_is_refused(store: str, name: str, tmp_path: Path) -> None:
    described = {
        "format": 1,
        "model": "mill",
        "version": 3,
        "files": [{"name": name, "bytes": 1, "sha256": "0" * 64}],
    }
    s3.write_object(f"{store}/mill/3/{MANIFEST}", json.dumps(described).encode())
    with pytest.raises(InputError, match=r"describes no package(.|\n)*files\.0\.name"):
        fetch(f"{store}/mill/3", cache=tmp_path / "cache")


@pytest.mark.parametrize("model", ["../../evil", "a/b", ""])
def test_so_is_a_model_name_that_leads_out_of_the_cache(store: str, model: str, tmp_path: Path) -> None:
    described = {"format": 1, "model": model, "version": 3, "files": []}
    s3.write_object(f"{store}/mill/3/{MANIFEST}", json.dumps(described).encode())
    with pytest.raises(InputError, match=r"describes no package(.|\n)*model"):
        fetch(f"{store}/mill/3", cache=tmp_path / "cache")


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b'{"format": 2}', b"\xff\xfe"])
def test_garbage_is_no_package(store: str, data: bytes, tmp_path: Path) -> None:
    s3.write_object(f"{store}/mill/3/{MANIFEST}", data)
    with pytest.raises(InputError, match="describes no package"):
        fetch(f"{store}/mill/3", cache=tmp_path / "cache")


def test_another_package_than_the_registry_says_is_refused(store: str, package: Path, tmp_path: Path) -> None:
    done = publish(package, store)
    with pytest.raises(InputError, match="is not what was published"):
        fetch(done.uri, sha256="0" * 64, cache=tmp_path / "cache")


def test_an_archive_that_was_not_tried_is_not_published(store: str, package: Path) -> None:
    (package / "model_store" / "mill.mar").write_bytes(b"other")
    with pytest.raises(InputError, match="is not the archive that passed the trial"):
        publish(package, store)
    assert s3.object_size(f"{store}/mill/3/{MANIFEST}") is None


def test_the_note_of_the_stage_does_not_make_another_package(store: str, package: Path) -> None:
    publish(package, store)
    noted = json.loads((package / HANDLE_NAME).read_text())
    noted["smoke"] = {"latency_ms": 9.0}
    (package / HANDLE_NAME).write_text(json.dumps(noted))
    assert not publish(package, store).fresh


def test_a_server_that_is_away_or_refuses_is_said(
    store: str, package: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import boto3

    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    s3.client.cache_clear()
    with pytest.raises(StorageError, match=r"403|SignatureDoesNotMatch"):
        publish(package, store)
    (closed,) = free_ports(1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{closed}")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    s3.client.cache_clear()
    with pytest.raises(StorageError, match="no server answers there"):
        fetch(f"{store}/mill/3", cache=tmp_path / "cache")


@pytest.mark.parametrize("store", ["s3://", "models", "https://models"])
def test_a_store_that_is_none_is_refused(store: str, package: Path) -> None:
    with pytest.raises(InputError, match="names no bucket"):
        publish(package, store)


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A registry whose champion of `mill` is version 1, outside of any project."""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.chdir(tmp_path)
    client = connect(uri)
    client.create_registered_model("mill")
    client.create_model_version("mill", source=str(tmp_path), tags={"weights_sha256": WEIGHTS})
    client.set_registered_model_alias("mill", "champion", "1")
    return uri


def test_the_registry_leads_to_the_package(
    store: str, registry: str, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(InputError, match=r"version 1 of mill, has no package(.|\n)*dinomill publish"):
        package_at("models:/mill@champion", None)
    done = publish(package, store)
    champion = resolve("models:/mill@champion")
    set_tags(registry, champion, {PLACE_TAG: done.uri, HASH_TAG: done.sha256})
    assert _contents(package_at("models:/mill@champion", None)) == _contents(package)
    set_tags(registry, champion, {HASH_TAG: "0" * 64})
    with pytest.raises(InputError, match="is not what was published"):
        package_at("models:/mill/1", None)


def test_a_version_that_is_not_there_is_said(registry: str) -> None:
    with pytest.raises(InputError, match=r"has no models:/mill@nosuch(.|\n)*models:/mill@champion"):
        package_at("models:/mill@nosuch", None)
    with pytest.raises(InputError, match=r"has no models:/mill/2"):
        set_tags(registry, replace(resolve("models:/mill/1"), version=2), {PLACE_TAG: "s3://models"})


def test_without_a_project_somebody_has_to_name_the_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"Nothing says which registry(.|\n)*MLFLOW_TRACKING_URI"):
        serve_address("models:/mill@champion", 18080, None)


def test_a_package_is_served_as_it_was_made(package: Path) -> None:
    said = {"threads": 3, "workers": 2, "max_request_mb": 4}
    fetched = settings_of(package, said, own=False)
    assert (fetched.threads, fetched.workers, fetched.max_request_mb) == (1, 2, 8)
    own = settings_of(package, said, own=True)
    assert (own.threads, own.workers, own.max_request_mb) == (3, 2, 4)


@pytest.mark.parametrize("content", [b"", b"cut off", None])
def test_a_truncated_archive_is_said(package: Path, content: bytes | None) -> None:
    archive = package / "model_store" / "mill.mar"
    archive.write_bytes(archive.read_bytes()[:5000] if content is None else content)
    with pytest.raises(InputError, match="is no archive that the packaging stage made"):
        settings_of(package, {}, own=False)


@pytest.mark.parametrize(
    ("version", "weights", "packaged", "said"),
    [
        (1, WEIGHTS, "", None),
        (1, "0" * 64, "", "is not known to be of models:/mill/1"),
        (2, WEIGHTS, "", "is not known"),
        (2, "0" * 64, WEIGHTS, None),  # another version than the last registered was packaged: packaging.registered
        (1, WEIGHTS, "0" * 64, "is not known to be of models:/mill/1"),
    ],
)
def test_a_number_alone_is_no_version(
    registry: str, package: Path, tmp_path: Path, version: int, weights: str, packaged: str, said: str | None
) -> None:
    """After `dvc pull`, or with another registry, version 1 may be another network."""
    made = PackageHandle.load(package).model_copy(update={"version": 1, "weights_sha256": packaged})
    handle = RegistrationHandle(
        folder=tmp_path,
        made_of="",
        model="mill",
        version=version,
        aliases=(),
        uri="models:/mill/1",
        weights_sha256=weights,
        source=tmp_path,
        passed_gate=True,
        gate=(),
    )
    if said is None:
        assert _packaged_version(handle, made).uri == "models:/mill/1"
    else:
        with pytest.raises(InputError, match=said):
            _packaged_version(handle, made)
