"""Build a TorchServe archive that carries everything but its third-party packages.

<store>/<model>.mar          a zip file:
    MAR-INF/MANIFEST.json        written by torch-model-archiver
    handler.py                   dinomill.serving.torchserve.handler
    dinomill/…                   the library's prediction code, at the version that trained the model
    config.json, model.safetensors
    probe.safetensors, index.safetensors, index.json       see serving/views.py, where packaging was told so
    model.onnx, or model.xml and model.bin, or model.int8.onnx     what the chosen backend runs, if it is not PyTorch
    model-config.yaml            batching, time limits, threads

A worker's Python path begins with the unpacked archive, so the code in it wins over an installed dinomill. The server
needs only the packages that requirements.py lists. The same backbone, code and configuration give the same bytes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from pydantic import Field

import dinomill
from dinomill.config import Config
from dinomill.errors import ConfigError, InputError
from dinomill.serving.backends.choice import EAGER, Backend
from dinomill.serving.torchserve import handler
from dinomill.serving.torchserve.baked import ANSWER_BYTES
from dinomill.serving.torchserve.carried import carried_files
from dinomill.serving.torchserve.properties import ServerConfig, baked_settings, render_model_config
from dinomill.storage.atomic import atomic_file

BACKBONE_FILES = ("config.json", "model.safetensors")
MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_\-.]*")
# The first moment that a zip file can express; real times would make every archive different.
_EPOCH = (1980, 1, 1, 0, 0, 0)
_MANIFEST = "MAR-INF/MANIFEST.json"


class BatchingConfig(Config):
    """What is baked into the archive: how requests are gathered and what one may ask."""

    batch_size: int = Field(default=8, ge=1, le=1024, description="requests that are computed together at most")
    max_delay_ms: int = Field(default=5, ge=0, description="how long a request waits for company, in milliseconds")
    response_seconds: int = Field(default=30, ge=1, description="a worker that needs longer for a batch is restarted")
    startup_seconds: int = Field(default=120, ge=1, description="a worker that needs longer to load is restarted")
    max_instances: int = Field(default=64, ge=1, description="images in one JSON request at most")


def build_archive(
    backbone: Path,
    store: Path,
    *,
    model: str,
    version: str,
    batching: BatchingConfig,
    server: ServerConfig,
    backend: Backend = EAGER,
    beside: Path | None = None,
    answer_bytes: int = 0,
) -> Path:
    """Write ``<store>/<model>.mar`` atomically.

    Args:
        backbone: The folder of an exported backbone.
        store: The model store; created when missing.
        model: The name under which it is served.
        version: The model's version, as TorchServe shows it.
        batching: What is baked in.
        server: Of which the threads of a worker, the size of images and the length of embeddings are baked in, too.
        backend: What computes the embeddings. The weights go into the archive in any case: where the backend does not
            run, PyTorch does.
        beside: A folder with the backend's program, and whatever else goes along.
        answer_bytes: Of the largest answer to one image, which its server has to send.

    Raises:
        ConfigError: When the name is not one that TorchServe takes.
        InputError: When the folder holds no exported backbone.
    """
    if not MODEL_NAME.fullmatch(model):
        raise ConfigError(
            f"{model!r} cannot be the name of a served model.",
            expected="letters, digits, '_', '-' and '.', beginning with a letter or digit",
            action="set packaging.name",
        )
    missing = [name for name in BACKBONE_FILES if not (backbone / name).is_file()]
    if missing:
        raise InputError(
            f"{backbone} is not an exported backbone.",
            found=f"no {' and no '.join(missing)}",
            action="run the registration stage again",
        )
    target = store / f"{model}.mar"
    with tempfile.TemporaryDirectory(prefix="dinomill-mar-") as name:
        folder = Path(name)
        _lay_out(backbone, folder / "content", batching, server, backend, answer_bytes)
        for path in sorted(beside.iterdir()) if beside else ():
            shutil.copy(path, folder / "content" / path.name)
        made = _run_archiver(folder, model, version)
        with atomic_file(target) as temporary:
            _normalise(made, temporary)
    return target


def _lay_out(
    backbone: Path, content: Path, batching: BatchingConfig, server: ServerConfig, backend: Backend, answer_bytes: int
) -> None:
    """The extra files of the archive."""
    package = Path(dinomill.__file__).parent
    for relative in carried_files(backend.runtime):
        target = content / "dinomill" / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(package / relative, target)
    for name in BACKBONE_FILES:
        shutil.copy(backbone / name, content / name)
    values: dict[str, object] = {
        "batchSize": batching.batch_size,
        "maxBatchDelay": batching.max_delay_ms,
        "responseTimeout": batching.response_seconds,
        "startupTimeout": batching.startup_seconds,
        "handler": {"max_instances": batching.max_instances}
        | baked_settings(server)
        | {"backend": backend.model_dump()}
        | ({ANSWER_BYTES: answer_bytes} if answer_bytes else {}),
    }
    (content.parent / "model-config.yaml").write_text(render_model_config(values), encoding="utf-8")


def _run_archiver(folder: Path, model: str, version: str) -> Path:
    """Let torch-model-archiver make the archive. A process of its own, because it works in a host-wide folder."""
    out, scratch = folder / "out", folder / "scratch"
    out.mkdir()
    scratch.mkdir()
    command = [
        *(sys.executable, "-m", "model_archiver.model_packaging"),
        *("--model-name", model, "--version", version, "--handler", handler.__file__),
        *("--extra-files", str(folder / "content"), "--config-file", str(folder / "model-config.yaml")),
        *("--export-path", str(out)),
    ]
    result = subprocess.run(
        command, env=os.environ | {"TMPDIR": str(scratch)}, capture_output=True, text=True, check=False
    )
    archive = out / f"{model}.mar"
    if result.returncode != 0 or not archive.exists():
        raise RuntimeError(f"torch-model-archiver failed:\n{result.stdout}{result.stderr}")
    return archive


def _normalise(source: Path, target: Path) -> None:
    """Rewrite a zip file with sorted names, one time for all members, and stored weights.

    Weights hardly compress, so storing them saves the unpacking time of every worker start.
    """
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in sorted(old.namelist()):
            member = zipfile.ZipInfo(name, _EPOCH)
            member.external_attr = 0o644 << 16
            stored = name.endswith((".safetensors", ".onnx", ".bin"))
            member.compress_type = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
            data = old.read(name)
            if name == _MANIFEST:
                manifest = json.loads(data)
                manifest["createdOn"] = "01/01/1980 00:00:00"
                data = json.dumps(manifest, indent=2, sort_keys=True).encode()
            new.writestr(member, data)
