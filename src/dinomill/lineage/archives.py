"""What a .mar holds, which server ran with it, and which archive answered a request.

A server's folder, of `dinomill serve` and of a LitServe that runs where its folder was made:

    <work>/serve*, <package>-litserve/run, …
        serving.json          where it listens, and the archive that it serves
        logs/requests*.log    a line of JSON a request: the id that its answer carries as `x-request-id`, and the model
                              and version that answered it
        .lock                 held while the server runs
"""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dinomill.errors import DinomillError, InputError
from dinomill.lineage.places import Place, everywhere
from dinomill.lineage.thread import Kind, Thing, Thread
from dinomill.serving.litserve.places import folder_beside, noted_folders
from dinomill.serving.litserve.settings import RUN
from dinomill.storage.hashing import hash_file
from dinomill.storage.lock import holder

SERVING = "serving.json"
_WEIGHTS, _MANIFEST = "model.safetensors", "MAR-INF/MANIFEST.json"


@dataclass(frozen=True)
class Archive:
    """What is written into an archive."""

    path: Path
    sha256: str
    model: str
    version: str
    weights_sha256: str


def read_archive(path: Path) -> Archive:
    """Read an archive's name, version and weights.

    Raises:
        InputError: When it is none.
    """
    try:
        with zipfile.ZipFile(path) as file:
            model = json.loads(file.read(_MANIFEST))["model"]
            with file.open(_WEIGHTS) as weights:
                digest = hashlib.file_digest(weights, "sha256").hexdigest()  # type: ignore[arg-type]
        return Archive(path, hash_file(path), str(model["modelName"]), str(model["modelVersion"]), digest)
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        NotImplementedError,  # compressed in a way that is not known here
        RuntimeError,  # encrypted
        RecursionError,  # a manifest that is nested too deep
        KeyError,
        ValueError,
        TypeError,
        OSError,
    ) as error:
        raise InputError(
            f"{path} is no archive that the packaging stage made.",
            found=f"{type(error).__name__}: {error}",
            expected=f"a zip file with {_MANIFEST} and {_WEIGHTS}",
            action="package again: `kedro run --pipelines packaging` (with `--env` in an environment)",
        ) from None


def add_archive(thread: Thread, path: Path) -> Thing:
    """Add an archive that lies somewhere by what is in it.

    Raises:
        InputError: When it is none.
    """
    archive = read_archive(path)
    thing = thread.add(Kind.ARCHIVE, archive.sha256, f"{path.name} {archive.sha256[:12]}")
    thing.facts.setdefault("lies in", path.as_posix())
    version = thread.add(
        Kind.VERSION, f"{archive.model}/{archive.version}", f"models:/{archive.model}/{archive.version}"
    )
    network = thread.add(Kind.NETWORK, archive.weights_sha256, archive.weights_sha256[:12])
    registered = {above.id for above, _ in thread.above(version) if above.kind is Kind.NETWORK}
    if registered and archive.weights_sha256 not in registered:
        # Its version is a mere number: of another registry, or of one that was emptied.
        thing.facts["beware"] = f"models:/{version.id} of this registry has other weights"
        thread.link(network, thing, "packaged as")
    else:
        thread.link(network, version, "registered as")
        thread.link(version, thing, "packaged as")
    return thing


def add_endpoints(thread: Thread, found: list[Place]) -> list[Path]:
    """Add the servers that ran in the folders of some environments.

    Returns:
        Their folders.
    """
    folders = [run for run in _server_folders(found) if (run / SERVING).is_file()]
    for run in folders:
        _add_endpoint(thread, run)
    return folders


def _server_folders(found: list[Place]) -> Iterator[Path]:
    """Where servers run, unless LitServe is told to run elsewhere."""
    works = [Path(work) for work in everywhere(found, "work")]
    for work in works:
        yield from sorted(work.glob("serve*"))
    made = [folder_beside(Path(package)) for package in everywhere(found, "package")]
    for folder in dict.fromkeys([*made, *(one for work in works for one in noted_folders(work))]):
        yield folder / RUN


def _add_endpoint(thread: Thread, run: Path) -> None:
    try:
        said = json.loads((run / SERVING).read_text(encoding="utf-8"))
        address = f"{said['address']}/predictions/{said['model']}"
        path, digest = said["archive"], str(said.get("archive_sha256") or "")
        named = {"model": str(said["model"]), "version": str(said.get("version"))}
    except (OSError, ValueError, KeyError, TypeError) as error:
        thread.lack(f"{run / SERVING} does not say what was served there: {error}", "start the server again")
        return
    process = holder(run / ".lock")
    thing = thread.add(
        Kind.ENDPOINT,
        run.as_posix(),
        address,
        state=f"running, process {process}" if process else "not running",
        logs=f"{run.as_posix()}/logs",
    )
    # What answers is what was read when it started: by now another archive may lie there, or none.
    if digest and (path is None or not _lies_there(Path(path), digest)):
        archive = _by_hash(thread, digest, named)
    else:
        try:
            archive = add_archive(thread, Path(path))
        except InputError:
            thread.lack(
                f"the archive that {run} was started with is not at {path} any more", "dvc checkout, or package again"
            )
            return
    thread.link(archive, thing, "serves it" if process else "served it")


def _lies_there(path: Path, digest: str) -> bool:
    try:
        return hash_file(path) == digest
    except (OSError, DinomillError):
        return False


def _by_hash(thread: Thread, digest: str, named: Mapping[str, str]) -> Thing:
    """An archive that is not at hand, or whose content is served without it."""
    thing = thread.add(Kind.ARCHIVE, digest, f"{named['model']}.mar {digest[:12]}")
    if not thread.above(thing):  # no package here is or was this one
        name = f"{named['model']}/{named['version']}"
        thread.link(thread.add(Kind.VERSION, name, f"models:/{name}"), thing, "packaged as")
    return thing


def find_request(folders: list[Path], wanted: str) -> Iterator[tuple[Path, str, str, str]]:
    """The answers to a request: the server's folder, time, model and version; logs are read line by line."""
    for run in folders:
        for log in sorted((run / "logs").glob("requests.log*")):
            with suppress(OSError), log.open(encoding="utf-8", errors="replace") as lines:
                for line in lines:
                    if wanted in line and (row := _row(line)) and row.get("id") == wanted and row.get("version"):
                        yield run, str(row.get("time")), str(row.get("model")), str(row["version"])


def _row(line: str) -> dict[str, object]:
    try:
        row = json.loads(line)
    except ValueError:  # cut off, when a disk was full
        return {}
    return row if isinstance(row, dict) else {}
