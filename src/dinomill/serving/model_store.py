"""Packages in an S3 model store: published once, never changed, fetched and verified wherever they are served.

<store>/<model>/<version>/
    package.json                    written last, and only where there is none: a version is published by it
    <sha256, 16 digits>/<file>      what it names: the archive, its configuration, requirements, README

Files lie under their own hash, so that two who publish the same version at once do not write over each other; which of
them counts, the server decides with ``package.json``.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dinomill.errors import InputError, StorageError
from dinomill.execution.progress import progress
from dinomill.handles import HANDLE_NAME, PackageHandle
from dinomill.serving.fetched import damaged, is_whole, remove_old
from dinomill.serving.torchserve.archive import MODEL_NAME
from dinomill.storage import s3, s3_parts
from dinomill.storage.atomic import atomic_folder
from dinomill.storage.hashing import hash_bytes, hash_file, hash_json
from dinomill.storage.user_cache import user_cache

log = logging.getLogger(__name__)

MANIFEST = "package.json"
_FORMAT = 1
# Names of files in a package: a folder deep, and nothing that leads out of it.
_NAME = re.compile(r"(?:[A-Za-z0-9_-][A-Za-z0-9_.-]*/)?[A-Za-z0-9_-][A-Za-z0-9_.-]*")
_SHA256 = r"^[0-9a-f]{64}$"


class StoredFile(BaseModel):
    """A file of a package."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=f"^{_NAME.pattern}$")
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern=_SHA256)


class Manifest(BaseModel):
    """What ``package.json`` says."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = Field(ge=1, le=_FORMAT)
    model: str = Field(pattern=rf"^{MODEL_NAME.pattern}$")
    version: int
    files: tuple[StoredFile, ...]

    @classmethod
    def of(cls, package: Path, handle: PackageHandle) -> Self:
        """Of a package that the packaging stage wrote."""
        files = sorted(path for path in package.rglob("*") if path.is_file())
        made = [
            StoredFile(name=str(path.relative_to(package)), bytes=path.stat().st_size, sha256=hash_file(path))
            for path in files
        ]
        return cls(format=_FORMAT, model=handle.model, version=handle.version, files=tuple(made))

    @classmethod
    def parse(cls, data: bytes, where: str) -> Self:
        """What a store gave.

        Raises:
            InputError: When it is none, or of a newer dinomill.
        """
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            first = error.errors()[0]
            raise InputError(
                f"{where} describes no package.",
                found=f"{'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}",
                expected=f"what `dinomill publish` writes, format {_FORMAT} or older",
                action="publish it again, or update dinomill if a newer one has written it",
            ) from None

    def encoded(self) -> bytes:
        """As it lies in the store; equal packages give equal bytes."""
        return self.model_dump_json(indent=2).encode() + b"\n"

    @property
    def content(self) -> str:
        """A hash of what the files hold, less the stage's own note, whose times differ between equal archives."""
        return hash_json([(one.name, one.sha256) for one in self.files if one.name != HANDLE_NAME])

    @property
    def hashes(self) -> dict[str, str]:
        """The sha256 of each file, by its name."""
        return {one.name: one.sha256 for one in self.files}

    @property
    def bytes(self) -> int:
        """Of all files."""
        return sum(one.bytes for one in self.files)


class Published(BaseModel):
    """A version in a store."""

    model_config = ConfigDict(frozen=True)

    uri: str = Field(description="s3://…/<model>/<version>")
    sha256: str = Field(description="of package.json, which names those of all files")
    bytes: int
    fresh: bool = Field(description="False where the same version was there before")


def publish(package: Path, store: str) -> Published:
    """Put a package into a store; one that is there already stays, and is said to be there.

    Killed in the middle it has published nothing; the next try sends what is missing.

    Args:
        package: The folder that the packaging stage wrote.
        store: ``s3://bucket/prefix``.

    Raises:
        InputError: When there is no package, it holds files that no package has, its archive is not the one that was
            tried, or the store has another package under this version.
        StorageError: When the server does not answer or refuses.
    """
    handle = PackageHandle.load(package)
    _require_names(package)
    manifest = Manifest.of(package, handle)
    _require_tried(package, handle, manifest)
    s3.split_uri(store)
    uri = f"{store.rstrip('/')}/{handle.model}/{handle.version}"
    if (there := _read_manifest(uri)) is not None:
        _clear(uri)
        return _same_or_refused(uri, manifest, there)
    with progress("publish", manifest.bytes, "bytes") as bar:
        for file in manifest.files:
            _send(package / file.name, _place(uri, file), file.bytes, bar.advance)
    data = manifest.encoded()
    s3.create_object(f"{uri}/{MANIFEST}", data)
    _clear(uri)
    there = _read_manifest(uri)
    if there != data:  # somebody else was faster
        return _same_or_refused(uri, manifest, there or b"")
    return Published(uri=uri, sha256=hash_bytes(data), bytes=manifest.bytes, fresh=True)


def fetch(
    uri: str, *, sha256: str | None = None, cache: Path | None = None, go_on: Callable[[], None] = lambda: None
) -> Path:
    """A folder with a published package, as the packaging stage wrote it; fetched once, and verified.

    A process hashes what it has not seen, and what looks otherwise than when it did; older versions are removed.

    Args:
        uri: ``s3://…/<model>/<version>``.
        sha256: What ``package.json`` has to be, where somebody has said so.
        cache: Where packages are kept; ``$XDG_CACHE_HOME/dinomill/packages`` by default.
        go_on: Called again and again while files come; an error of it ends that, and nothing is left.

    Raises:
        InputError: When there is no such package, or it is not the one that was meant.
        StorageError: When the server does not answer or refuses, or what it gave is damaged.
    """
    uri = uri.rstrip("/")
    where = f"{uri}/{MANIFEST}"
    if (data := _read_manifest(uri)) is None:
        raise InputError(
            f"{uri} holds no package.",
            found=f"no {MANIFEST}",
            expected="s3://…/<model>/<version>, as `dinomill publish` prints it",
            action="correct the address, or publish the package where it was made: dinomill publish --store …",
        )
    manifest = Manifest.parse(data, where)
    if sha256 is not None and hash_bytes(data) != sha256:
        raise InputError(
            f"{where} is not what was published.",
            found=f"sha256 {hash_bytes(data)}",
            expected=f"{sha256}, as the registry says",
            action="find out who changed it; publish the package again where it was made",
        )
    cache = cache or cache_folder()
    folder, hashes = cache / f"{manifest.model}-{manifest.version}-{hash_bytes(data)[:16]}", manifest.hashes
    if is_whole(folder, hashes):
        return folder
    name = f"fetching {manifest.model} {manifest.version}"
    with progress(name, manifest.bytes, "bytes") as bar, atomic_folder(folder) as fresh:

        def advance(size: int) -> None:
            go_on()
            bar.advance(size)

        for file in manifest.files:
            go_on()
            target = fresh / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            s3.download_file(_place(uri, file), target, advance)
        if wrong := damaged(fresh, hashes):
            raise StorageError(
                f"{uri} is damaged.",
                found=f"{', '.join(wrong)} {'is' if len(wrong) == 1 else 'are'} not what {MANIFEST} says",
                action="publish the package again under another version",
            )
    try:
        remove_old(cache, folder)
    except OSError as error:  # another process does the same just now
        log.info("older packages in %s stay: %s", cache, error)
    return folder


def cache_folder() -> Path:
    """Where fetched packages are kept."""
    return user_cache("packages")


def _require_names(package: Path) -> None:
    names = sorted(str(path.relative_to(package)) for path in package.rglob("*") if path.is_file())
    if strange := [name for name in names if not _NAME.fullmatch(name)]:
        raise InputError(
            f"{package} holds files that no package has.",
            found=", ".join(strange),
            expected="letters, digits, '-', '_' and '.' in their names, and at most one folder above them",
            action="remove them, or run the packaging stage again",
        )


def _require_tried(package: Path, handle: PackageHandle, manifest: Manifest) -> None:
    archive = f"{handle.archive.parent.name}/{handle.archive.name}"
    found = next((one.sha256 for one in manifest.files if one.name == archive), None)
    if found != handle.archive_sha256:
        raise InputError(
            f"{package / archive} is not the archive that passed the trial.",
            found="no such file" if found is None else f"sha256 {found}",
            expected=f"sha256 {handle.archive_sha256}",
            action="run the packaging stage again",
        )


def _send(path: Path, target: str, size: int, advance: Callable[[int], None]) -> None:
    there = s3.object_size(target)
    if there == size:
        advance(size)  # of a try before this one: its name holds the hash of what it is
        return
    if there is None and s3_parts.upload_new(path, target, advance):
        return
    if s3.object_size(target) != size:  # whatever it is, it is not what its name says
        s3.upload_file(path, target, advance)


def _clear(uri: str) -> None:
    """Parts that killed tries left cost money and are nobody's; who may not remove them publishes all the same."""
    try:
        if left := s3_parts.abort_unfinished(uri):
            log.info("removed what %d killed uploads had left below %s", left, uri)
    except StorageError as error:
        log.info("unfinished uploads below %s stay: %s", uri, error)


def _place(uri: str, file: StoredFile) -> str:
    return f"{uri}/{file.sha256[:16]}/{file.name}"


def _read_manifest(uri: str) -> bytes | None:
    where = f"{uri}/{MANIFEST}"
    return None if s3.object_size(where) is None else s3.read_object(where)


def _same_or_refused(uri: str, manifest: Manifest, there: bytes) -> Published:
    other = Manifest.parse(there, f"{uri}/{MANIFEST}")
    if other.content == manifest.content:
        return Published(uri=uri, sha256=hash_bytes(there), bytes=other.bytes, fresh=False)
    differing = sorted(
        {(one.name, one.sha256) for one in manifest.files} ^ {(one.name, one.sha256) for one in other.files}
    )
    names = sorted({name for name, _ in differing if name != HANDLE_NAME})
    raise InputError(
        f"{uri} holds another package already; a published version never changes.",
        found=f"other contents of {', '.join(names)}",
        action="register a new version and package that, or publish to another store",
    )
