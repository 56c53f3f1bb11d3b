"""Make a folder for LitServe of a package: everything that `python server.py` needs but third-party packages.

<folder>/server.py         starts it
<folder>/settings.json     what is served, and how
<folder>/handle.json       the package's, for its lineage
<folder>/model/…           configuration, weights, program, probe and index, as they lie in the package's archive
<folder>/dinomill/…        the library's prediction code and gateway
<folder>/requirements.txt  what has to be installed, pinned
<folder>/README.md         how to start it and how to ask it
"""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import yaml

import dinomill
from dinomill.errors import ConfigError, MachineError
from dinomill.handles import HANDLE_NAME, PackageHandle
from dinomill.serving.gateway.config import GatewayConfig
from dinomill.serving.litserve import server as entry
from dinomill.serving.litserve.process import SERVER
from dinomill.serving.litserve.readme import render_readme
from dinomill.serving.litserve.settings import MODEL, RUN, SETTINGS, Settings
from dinomill.serving.processes import STARTUP_SECONDS
from dinomill.serving.torchserve.behind import about, limits_of, offers_of, require_whole
from dinomill.serving.torchserve.carried import carried_files
from dinomill.serving.torchserve.properties import ServerConfig
from dinomill.serving.torchserve.requirements import pinned_requirements
from dinomill.serving.torchserve.run_folder import LOCK
from dinomill.storage.atomic import atomic_folder, write_text
from dinomill.storage.left_behind import sweep
from dinomill.storage.lock import holder
from dinomill.storage.writable import require_place

_BAKED = "model-config.yaml"
_NOT_THE_MODEL = ("handler.py", _BAKED)
_PAGE = Path("serving", "gateway", "page")
# Beside what the carried code imports: what uvicorn's protocol does, and what compressed TIFFs are read with.
_BESIDES = ("litserve", "httptools", "uvicorn", "imagecodecs")
_SERVER_TEXT = '''\
"""Serves the model in this folder with LitServe: python server.py [--host 127.0.0.1] [--port 8080] [--run run]."""

import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER))  # the code that lies here, whatever is installed

from dinomill.serving.litserve.server import main  # noqa: E402

if __name__ == "__main__":  # workers import this file, too
    sys.exit(main(FOLDER))
'''


class Target(NamedTuple):
    """What is made into a folder, and how it is to run.

    Args:
        package: The folder that the packaging stage wrote.
        server: How many workers; what else was baked into the archive stays as it is there.
        gateway: How clients are treated.
    """

    package: Path
    server: ServerConfig
    gateway: GatewayConfig


def write_folder(folder: Path, target: Target, check: Callable[[Path], None] = lambda _: None) -> Settings:
    """Write the folder, whole or not at all; one that is there is replaced, but for its ``run``.

    Args:
        folder: Where.
        target: Of what.
        check: Takes the folder before it gets its name; what it raises keeps the one from before.

    Raises:
        ConfigError: When the folder holds something else.
        InputError: When there is no package, or its archive is damaged.
        MachineError: When LitServe is not installed, or a server runs in the folder.
        StorageError: When the folder cannot be written.
    """
    require_place(folder)
    sweep(folder, keep=RUN)
    _require_ours(folder)
    _require_unserved(folder)
    require_installed()
    handle = PackageHandle.load(target.package)
    archive = target.package / handle.archive.parent.name / handle.archive.name
    require_whole(archive, handle)
    settings = read_archive(archive, handle, target)
    with atomic_folder(folder, keep=RUN) as made:
        _unpack(archive, made / MODEL)
        code = _copy_code(made / "dinomill", str(settings.worker.get("backend", {}).get("runtime", "eager")))
        requirements = pinned_requirements((path.read_text(encoding="utf-8") for path in code), _BESIDES)
        write_text(made / "requirements.txt", "\n".join(requirements) + "\n")
        write_text(made / SETTINGS, json.dumps(settings.model_dump(mode="json"), indent=2) + "\n")
        write_text(made / SERVER, _SERVER_TEXT)
        write_text(made / "README.md", render_readme(settings, requirements))
        shutil.copy(target.package / HANDLE_NAME, made / HANDLE_NAME)
        check(made)
        for cache in sorted(made.rglob("__pycache__")):
            shutil.rmtree(cache)
        _require_unserved(folder)  # it may have been started during the trial
    return settings


def _require_ours(folder: Path) -> None:
    if not folder.exists() or not any(folder.iterdir()):
        return
    try:
        Settings.read(folder)
        ours = (folder / SERVER).is_file()
    except ConfigError:
        ours = False
    if not ours:
        raise ConfigError(
            f"{folder} holds something else.",
            expected="a new or empty folder, or one that `dinomill package --target litserve` wrote",
            action="name another folder, or remove this one",
        )


def _require_unserved(folder: Path) -> None:
    owner = holder(folder / RUN / LOCK)
    if owner is not None:
        raise MachineError(
            f"A server runs from {folder}: a worker of it that starts again would load what is written there.",
            found=f"process {owner}",
            action="stop it (Ctrl-C where it runs), or write another folder: --output FOLDER",
        )


def read_archive(archive: Path, handle: PackageHandle, target: Target) -> Settings:
    """What an archive was made with, as LitServe is told it."""
    with zipfile.ZipFile(archive) as file:
        baked: dict[str, Any] = yaml.safe_load(file.read(_BAKED))
    return Settings(
        model=handle.model,
        version=str(handle.version),
        weights_sha256=handle.weights_sha256,
        archive_sha256=handle.archive_sha256,
        limits=limits_of(archive, handle.embed_dim, target.server),
        offers=offers_of(archive),
        about=about(handle),
        worker=baked["handler"],
        workers=target.server.workers,
        batch_size=baked["batchSize"],
        max_delay_ms=baked["maxBatchDelay"],
        response_seconds=baked["responseTimeout"],
        startup_seconds=baked.get("startupTimeout", STARTUP_SECONDS),
        queue=target.server.queue,
        gateway=target.gateway,
    )


def _unpack(archive: Path, model: Path) -> None:
    """The archive's files but its code: names without folders, as they were put in."""
    model.mkdir()
    with zipfile.ZipFile(archive) as file:
        for name in file.namelist():
            if "/" not in name and name not in _NOT_THE_MODEL:
                file.extract(name, model)


def _copy_code(target: Path, runtime: str) -> list[Path]:
    """The library's files that the server reaches, with the page's; returns the modules."""
    root = Path(dinomill.__file__).parent
    entries = carried_files(runtime, entry=Path(entry.__file__), left_out=())
    # The module in which the server begins is not among what it imports.
    own = {*entries, Path(entry.__file__).relative_to(root)}
    page = {path.relative_to(root) for path in (root / _PAGE).iterdir() if path.suffix in (".html", ".css", ".js")}
    for relative in sorted(own | page):
        (target / relative).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / relative, target / relative)
    return [target / relative for relative in sorted(own)]


def require_installed() -> None:
    """Refuse to go on without LitServe.

    Raises:
        MachineError: When it is not installed.
    """
    try:
        version("litserve")
    except PackageNotFoundError:
        raise MachineError(
            "LitServe is not installed here: the folder has to be tried before it is kept.",
            action="pip install 'dinomill[litserve]'",
        ) from None
