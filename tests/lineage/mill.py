"""A small project with everything that a thread leads through: curated for real, registered in a real MLflow store."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from hashlib import md5
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from dinomill import tracking
from dinomill.curation.config import CurationConfig
from dinomill.curation.stage import curate
from dinomill.handles import DatasetHandle, ModelHandle, PackageHandle, RegistrationHandle, StudentsHandle
from dinomill.layers import Layers
from dinomill.registration.example import example_table
from dinomill.serving.torchserve.archive import BatchingConfig, build_archive
from dinomill.serving.torchserve.properties import ServerConfig
from dinomill.storage.hashing import hash_file
from tests.conftest import PROJECT

CURATED = Path("data/05_model_input/curated")


class Mill(NamedTuple):
    root: Path
    dataset: DatasetHandle
    teacher: ModelHandle
    student: ModelHandle
    package: PackageHandle
    store: str


def make_project(root: Path, planted: Any) -> Path:
    """Code, configuration and images; in git."""
    (root / "src").mkdir(parents=True)
    for name in ("src/dinomill", "pipelines", "pyproject.toml"):
        (root / name).symlink_to(PROJECT / name)
    shutil.copytree(PROJECT / "conf", root / "conf", ignore=shutil.ignore_patterns("local", "paper", "fashion"))
    (root / "conf/local").mkdir()
    (root / ".dvc").mkdir()
    (root / ".dvc/config").touch()
    for name in ("pool", "seeds", "labelled"):
        shutil.copytree(getattr(planted, name), root / "images" / name)
    places = {"pool": ["images/pool"], "seeds": {"digits": "images/seeds"}, "labelled": "images/labelled"}
    (root / "conf/local/globals.yml").write_text(yaml.safe_dump(places))
    (root / ".gitignore").write_text("data/\nimages/\nconf/local/\n.dvc/cache\n")
    git(root, "init", "-q")
    commit(root, "begin")
    return root


def curate_here() -> DatasetHandle:
    """The stage's work in the working directory, with its own configuration."""
    layers = Layers()
    values = layers.parameters["curation"] | {
        "execution": {"executor": "inline"},
        "gate": {"docs": False},
        "embedding": {"embedder": {"image_size": 32, "precision": "float32"}},
    }
    places = layers.globals
    return curate(places["pool"], places["seeds"], places["labelled"], CurationConfig.model_validate(values))


def make_mill(root: Path, planted: Any, backbone: Path) -> Mill:
    """Curated, trained as far as records go, registered, packaged; the working directory is the project then."""
    make_project(root, planted)
    os.chdir(root)
    dataset = curate_here()
    store = tracking.resolve_uri(Layers().globals["tracking_uri"])
    teacher = _trained("teacher", Path("data/06_models/teacher"), backbone, dataset, None)
    student = _trained("small", Path("data/06_models/students/small"), backbone, dataset, teacher.weights_sha256)
    StudentsHandle(
        folder=Path("data/06_models/students"), made_of="0" * 64, students={"small": student}, champion="small"
    ).save()
    for stage, model in (("pretraining", teacher), ("distillation", student)):
        with tracking.open_run(stage, tracking_uri=store, experiment="dinomill", params={}) as run:
            run.log_dataset("curated", dataset.manifest_sha256, str(dataset.folder), rows=dataset.images)
            run.log_model_made(model.name, model.weights_sha256, {})
    register(store, student)
    folder = Path("data/07_model_output/package")
    archive = build_archive(
        student.folder,
        folder / "model_store",
        model="dinomill-backbone",
        version="1",
        batching=BatchingConfig(),
        server=ServerConfig(),
    )
    package = PackageHandle(
        folder=folder,
        made_of="0" * 64,
        archive=archive,
        archive_sha256=hash_file(archive),
        model="dinomill-backbone",
        version=1,
        embed_dim=student.embed_dim,
        smoke={},
    )
    package.save()
    return Mill(root, dataset, teacher, student, package, store)


def _trained(name: str, folder: Path, backbone: Path, dataset: DatasetHandle, teacher: str | None) -> ModelHandle:
    shutil.copytree(backbone, folder)
    weights = folder / "model.safetensors"
    if teacher is None:  # other bytes than the student's
        data = weights.read_bytes()
        weights.write_bytes(data[:-4] + bytes(4))
    handle = ModelHandle(
        folder=folder,
        made_of="0" * 64,
        name=name,
        weights_sha256=hash_file(weights),
        parameters=1,
        embed_dim=96,
        image_size=64,
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        images_seen=10,
        steps=1,
        history=folder / "history.parquet",
        dataset_sha256=dataset.manifest_sha256,
        teacher_sha256=teacher,
    )
    handle.save()
    return handle


def register(store: str, model: ModelHandle) -> tracking.RegisteredVersion:
    """A version in the registry, with the tags that registration gives, and its handle."""
    tags = {
        "model": model.name,
        "weights_sha256": model.weights_sha256,
        "dataset_sha256": model.dataset_sha256,
        "teacher_sha256": model.teacher_sha256 or "",
    }
    with tracking.open_run("registration", tracking_uri=store, experiment="dinomill", params={}) as run:
        card = tracking.ModelCard(
            loader="dinomill.serving.pyfunc",
            example=example_table(3, 64),
            embed_dim=96,
            requirements=["torch"],
            metrics={},
            tags=tags,
            description="",
            summary="",
        )
        version = tracking.register(run, "dinomill-backbone", model.folder, card)
    tracking.set_alias(store, "dinomill-backbone", "champion", version.version)
    RegistrationHandle(
        folder=Path("data/07_model_output/registration"),
        made_of="0" * 64,
        model=version.name,
        version=version.version,
        aliases=("champion",),
        uri="models:/dinomill-backbone@champion",
        weights_sha256=model.weights_sha256,
        source=model.folder,
        passed_gate=True,
        gate=(),
    ).save()
    return version


def git(root: Path, *arguments: str) -> str:
    said = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false", *arguments]
    return subprocess.run(said, cwd=root, check=True, capture_output=True, text=True).stdout


def commit(root: Path, message: str) -> str:
    git(root, "add", "-A")
    git(root, "commit", "-qm", message, "--allow-empty")
    return git(root, "rev-parse", "HEAD").strip()


def keep(root: Path, folder: Path = CURATED) -> str:
    """What DVC does with a stage's folder: its files by their md5, a list of them, and the list's md5 in dvc.lock."""
    cache = root / ".dvc/cache/files/md5"

    def put(data: bytes, end: str = "") -> str:
        name = md5(data, usedforsecurity=False).hexdigest() + end
        (cache / name[:2]).mkdir(parents=True, exist_ok=True)
        (cache / name[:2] / name[2:]).write_bytes(data)
        return name

    files = sorted(path for path in (root / folder).rglob("*") if path.is_file())
    listed = [{"md5": put(path.read_bytes()), "relpath": path.relative_to(root / folder).as_posix()} for path in files]
    version = put(json.dumps(listed).encode(), ".dir")
    lock = {"schema": "2.0", "stages": {"curation": {"cmd": "x", "outs": [{"path": folder.as_posix()}]}}}
    lock["stages"]["curation"]["outs"][0] |= {"hash": "md5", "md5": version, "size": 1}  # type: ignore[index]
    (root / "dvc.lock").write_text(yaml.safe_dump(lock, sort_keys=False), encoding="utf-8")
    return version
