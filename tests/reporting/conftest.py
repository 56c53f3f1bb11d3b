"""A small whole run: a laid-out sample, a manifest that follows what was planted, random networks, real evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from dinomill.evaluation.config import EvaluationConfig
from dinomill.evaluation.evaluate import evaluate
from dinomill.handles import (
    DatasetHandle,
    EvaluationHandle,
    ModelHandle,
    PackageHandle,
    RegistrationHandle,
    StudentsHandle,
)
from dinomill.images.manifest import MANIFEST_SCHEMA
from dinomill.images.preprocess import PreprocessingConfig
from dinomill.images.shards import ShardWriter
from dinomill.models import build, save_backbone, variant
from dinomill.reporting import ReportingConfig, RunHandles
from dinomill.sample import SampleConfig, lay_out
from dinomill.storage.atomic import write_parquet
from dinomill.storage.hashing import hash_file

SHIPPED = Path(__file__).parents[2] / "data" / "00_shipped" / "fashion_mnist"
_FATES = {"relevant": "kept", "exact_duplicate": "exact_duplicate", "near_duplicate": "near_duplicate"}
_FATES |= {"digit": "irrelevant", "patch": "irrelevant"}
MISSED = ("digit", "near_duplicate", "truncated_png")


class SmallRun(NamedTuple):
    """The run, the folder of the laid-out sample, and the mistakes in its manifest."""

    handles: RunHandles
    sample: Path
    missed: tuple[str, ...]  # kinds of planted files of which curation failed on one

    def config(self, output: Path, **changes: Any) -> ReportingConfig:
        """A configuration for pages of this run."""
        values = {"output": output, "planted": self.sample / "planted.parquet"} | changes
        return ReportingConfig.parse(values, where="the test")


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> SmallRun:
    root = tmp_path_factory.mktemp("small_run")
    sample = root / "sample"
    counts = {"originals": 120, "near_duplicates": 20, "exact_duplicates": 12, "digits": 30, "patches": 30}
    counts |= {"garments": 0, "drawings": 0, "scenes": 0}
    config = SampleConfig(
        output=sample, kind="garments", source=SHIPPED, broken=16, seeds=20, bank=60, queries=40, **counts
    )
    lay_out(config)
    curated = _curated(sample, root / "curated")
    data = curated.manifest_sha256
    teacher = _model(root, "teacher", "mini", 1, dataset_sha256=data)
    student = _model(root, "nano", "nano", 2, dataset_sha256=data, teacher_sha256=teacher.weights_sha256)
    students = StudentsHandle(folder=root / "students", made_of="", students={"nano": student}, champion="nano")
    handles = RunHandles(
        curated=curated,
        teacher=teacher,
        students=students,
        evaluation=_evaluation(sample / "labelled", teacher, students, root),
        registration=_registration(student),
        package=_package(root),
        labelled=str(sample / "labelled"),
    )
    return SmallRun(handles, sample, MISSED)


def _curated(sample: Path, folder: Path) -> DatasetHandle:
    """A dataset as curation would leave it, with one mistake for each kind in MISSED."""
    missed: set[str] = set()
    rows: list[dict[str, Any]] = []
    with ShardWriter(folder / "shards") as writer:
        for planted in pq.read_table(sample / "planted.parquet").to_pylist():
            kind, path = planted["kind"], planted["path"]
            fate = _FATES.get(kind, "quarantined")
            if kind in MISSED and kind not in missed:
                missed.add(kind)
                fate = "kept"
            row = {
                "path": path,
                "source": str(sample / "pool"),
                "fate": fate,
                "reason": None if fate == "kept" else kind,
            }
            if fate == "kept":
                row |= writer.add((sample / "pool" / path).read_bytes(), Path(path).suffix[1:])._asdict()
            if fate == "quarantined":
                row["detail"] = "the decoder's message, which quotes <angle brackets> & more"
            rows.append(row | {"duplicate_of": planted["original"] if "duplicate" in fate else None})
        shards = tuple(writer.close())
    table = pa.Table.from_pylist(rows, schema=MANIFEST_SCHEMA)
    manifest = folder / "manifest.parquet"
    write_parquet(manifest, table)
    fates = {name: sum(row["fate"] == name for row in rows) for name in {row["fate"] for row in rows}}
    handle = DatasetHandle(
        folder=folder,
        made_of="",
        manifest=manifest,
        manifest_sha256=hash_file(manifest),
        shards=shards,
        images=fates["kept"],
        pool_images=len(rows),
        fates=fates,
        channels=1,
        mean=(0.3,),
        std=(0.35,),
        embedder="efficientnet_lite0",
        sources=(str(sample / "pool"),),
    )
    handle.save()
    return handle


def _model(root: Path, name: str, size: str, seed: int, **made_of: str) -> ModelHandle:
    folder = root / name
    torch.manual_seed(seed)
    model = build(variant(size, patch_size=7, image_size=28, in_channels=1, depth=2, layerscale=1.0))
    save_backbone(folder, model, PreprocessingConfig.square(28, (0.3,), (0.35,)).section())
    steps = np.arange(10, 1010, 10)
    noise = np.random.default_rng(seed).normal(0, 0.05, len(steps))
    curve = 3 + 4 * np.exp(-steps / 250) + noise
    knn = [0.6 + 0.2 * (1 - np.exp(-step / 300)) if step % 100 == 0 else None for step in steps]
    history = folder / "history.parquet"
    columns = {"step": steps, "images": steps * 64, "loss": curve, "dino_global": curve * 0.6, "ibot": curve * 0.5}
    columns |= {"knn": pa.array(knn, pa.float64()), "effective_rank": pa.array(knn, pa.float64())}
    columns |= {name: [None if one is None else name for one in knn] for name in ("verdict", "reason")}
    write_parquet(history, pa.table(columns))
    return ModelHandle(
        folder=folder,
        made_of="",
        name=name,
        weights_sha256=hash_file(folder / "model.safetensors"),
        parameters=sum(p.numel() for p in model.parameters()),
        embed_dim=model.embed_dim,
        image_size=28,
        mean=(0.3,),
        std=(0.35,),
        images_seen=64_000,
        steps=1000,
        history=history,
        **made_of,
    )


def _evaluation(labelled: Path, teacher: ModelHandle, students: StudentsHandle, root: Path) -> EvaluationHandle:
    values = {"output": root / "evaluation", "work": root / "work", "bootstrap": 100}
    values |= {"random": {"seeds": 1}, "protocols": {"knn": {"ks": [5]}, "linear": {"l2": [1e-2]}}, "shown_queries": 10}
    return evaluate(str(labelled), teacher, students, EvaluationConfig.parse(values, where="the test"))


def _registration(student: ModelHandle) -> RegistrationHandle:
    handle = RegistrationHandle(
        folder=student.folder.parent / "registration",
        made_of="",
        model="mill",
        version=3,
        aliases=("candidate", "champion"),
        uri="models:/mill@champion",
        weights_sha256=student.weights_sha256,
        source=student.folder,
        passed_gate=True,
        gate=("kNN 81.2% is above the random network's 71.0% by 10.2 points (at least 5.0).",),
    )
    handle.save()
    return handle


def _package(root: Path) -> PackageHandle:
    smoke = {"seconds_to_ready": 4.2, "latency_ms": 11.7, "images_per_second": 88.0, "cosine": 0.999998, "images": 8.0}
    handle = PackageHandle(
        folder=root / "package",
        made_of="",
        archive=root / "package" / "model_store" / "mill.mar",
        archive_sha256="0" * 64,
        model="mill",
        version=3,
        embed_dim=64,
        smoke=smoke,
    )
    handle.save()
    return handle


@pytest.fixture
def output(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "report"
