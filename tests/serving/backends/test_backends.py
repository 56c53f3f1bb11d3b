"""Backends compute what the model computes, are measured in processes of their own, and are chosen by figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dinomill.arrays import Floats
from dinomill.errors import ConfigError, InputError, MachineError
from dinomill.images.preprocess import PreprocessingConfig, preprocess_bytes
from dinomill.models import VisionTransformer, save_backbone, variant
from dinomill.serving.backends import select as selecting
from dinomill.serving.backends.choice import EAGER, Backend, every_backend, why_not
from dinomill.serving.backends.config import BackendConfig
from dinomill.serving.backends.measure import Load, Measured
from dinomill.serving.backends.open import open_backend
from dinomill.serving.backends.programs import embed_all, write_programs
from dinomill.serving.backends.select import agreement, knn_accuracy, select
from dinomill.serving.backends.table import render_backends
from dinomill.serving.predictor import Predictor

SETTINGS = PreprocessingConfig.square(42, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
BOUNDS = {"float32": 0.9999, "bfloat16": 0.999, "int8": 0.95}
BACKENDS = [one for one in every_backend() if one.runtime != "compiled"]
QUICK = {"images": 12, "clients": (1, 3), "seconds": 0.05}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model")
    config = variant("nano", patch_size=7, image_size=42, depth=2, layerscale=1.0, pooling="cls+mean_patch")
    save_backbone(path, VisionTransformer(config), SETTINGS.section())
    return path


@pytest.fixture(scope="module")
def images(photographs: list[bytes]) -> Floats:
    return np.stack([preprocess_bytes(image, SETTINGS) for image in photographs])


@pytest.fixture(scope="module")
def programs(folder: Path, images: Floats, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("programs")
    write_programs(folder, path, [one for one in BACKENDS if why_not(one) is None], images)
    return path


@pytest.mark.parametrize("backend", BACKENDS, ids=str)
def test_a_backend_computes_the_model(folder: Path, programs: Path, images: Floats, backend: Backend) -> None:
    if why_not(backend) is not None:
        pytest.skip(str(why_not(backend)))
    own = embed_all(open_backend(folder, EAGER), images)
    features = open_backend(folder, backend, programs=programs)
    assert (features.preprocessing, features.pooling) == (SETTINGS, "cls+mean_patch")
    cosine, _ = agreement(embed_all(features, images, batch_size=4), own)
    assert cosine >= BOUNDS[backend.precision]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_compiled_one_does_too(folder: Path, images: Floats, precision: str) -> None:
    backend = Backend.parse({"runtime": "compiled", "precision": precision}, where="a test")
    if why_not(backend) is not None:
        pytest.skip(str(why_not(backend)))
    own = embed_all(open_backend(folder, EAGER), images)
    assert agreement(embed_all(open_backend(folder, backend), images), own)[0] >= BOUNDS[precision]


def test_a_predictor_takes_a_backend(folder: Path, programs: Path, photographs: list[bytes], tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    for path in (*folder.iterdir(), *programs.iterdir()):  # as an archive holds them
        (tmp_path / path.name).write_bytes(path.read_bytes())
    backend = Backend(runtime="openvino")
    predictor = Predictor(tmp_path, backend=backend)
    expected = Predictor(folder)(photographs)
    assert agreement(predictor(photographs), expected)[0] >= 0.9999
    found = list(predictor.each([photographs[0], b"no image"]))
    assert isinstance(found[1], InputError)
    np.testing.assert_allclose(found[0], expected[0], atol=1e-4)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="as it is"):
        Predictor(tmp_path, backend=backend, image_size=56)


def test_what_cannot_be_is_refused(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="eager does not compute in int8"):
        Backend.parse({"runtime": "eager", "precision": "int8"}, where="a test")
    backend = Backend(runtime="openvino")
    with pytest.raises(InputError, match=r"no model\.xml"):
        open_backend(folder, backend)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert why_not(backend) == "openvino not installed"
    with pytest.raises(InputError, match="cannot be used on this machine"):
        open_backend(folder, backend)
    with pytest.raises(MachineError, match="cannot be packaged"):
        select(
            folder,
            np.zeros((2, 3, 42, 42), np.float32),
            tmp_path,
            BackendConfig.parse(QUICK | {"choice": {"runtime": "openvino"}}, where="a test"),
            threads=1,
            batch_size=2,
        )


def test_what_is_installed_is_measured_and_the_chosen_program_stays(
    folder: Path, images: Floats, tmp_path: Path
) -> None:
    pytest.importorskip("openvino")
    values = QUICK | {"candidates": ["eager", "openvino"], "precisions": ["float32"]}
    found = select(folder, images, tmp_path, BackendConfig.parse(values, where="a test"), threads=1, batch_size=4)
    assert [row.backend.runtime for row in found.table] == ["eager", "openvino"]
    assert [load.clients for load in found.table[0].loads] == [1, 3]
    for row in found.table:
        assert row.min_cosine >= 0.9999
        assert row.cold_start_seconds > 0
        assert row.cold_start_cpu > 0
        assert row.memory_mb > 50
        assert all(load.images_per_cpu_second > 0 and load.p99_ms >= load.p50_ms > 0 for load in row.loads)
    assert {path.name for path in tmp_path.iterdir()} == set(found.backend.files)


def _row(runtime: str, rate: float, refused: str | None = None) -> Measured:
    load = Load(clients=1, images_per_second=rate, images_per_cpu_second=rate, p50_ms=1, p99_ms=1)
    backend = Backend.parse({"runtime": runtime}, where="a test")
    return Measured(
        backend=backend, cold_start_seconds=1, cold_start_cpu=1, memory_mb=1, loads=(load,), refused=refused
    )


def test_the_fastest_that_agrees_is_taken() -> None:
    table = [_row("eager", 2), _row("onnxruntime", 3), _row("openvino", 9, refused="cosine")]
    assert selecting._choose(table, BackendConfig(), {}).runtime == "onnxruntime"
    wanted = BackendConfig(choice=Backend(runtime="openvino"))
    with pytest.raises(MachineError, match="cannot be packaged"):
        selecting._choose(table, wanted, {})


def test_the_table_says_what_was_chosen_and_what_was_not_measured() -> None:
    table = [_row("eager", 2), _row("onnxruntime", 30.25, refused="cosine 0.9 for the worst image")]
    shown = render_backends(table, {"openvino float32": "openvino not installed"}, "eager float32").splitlines()
    assert shown[0] == "| backend | 1 client | worst cosine | neighbours | kNN | start, CPU-s | MB | |"
    assert shown[2].startswith("| onnxruntime float32 | 30.2 |")
    assert shown[2].endswith("| cosine 0.9 for the worst image |")
    assert shown[3].startswith("| **eager float32** | 2.0 | 1.00000 |")
    assert shown[-1] == "- openvino float32: openvino not installed"
    assert {line.count("|") for line in shown[:4]} == {9}
    assert "nothing was measured" in render_backends([], {}, "eager float32")


def test_agreement_and_the_accuracy_of_neighbours() -> None:
    own = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
    assert agreement(3 * own, own) == (pytest.approx(1), 1.0)
    broken = own.copy()
    broken[0] = -broken[0]
    cosine, neighbours = agreement(broken, own)
    assert cosine == pytest.approx(-1)
    assert 0.5 < neighbours < 1
    assert agreement(np.full_like(own, np.nan), own) == (0.0, 0.0)
    pairs = np.repeat(np.eye(3, dtype=np.float32), 2, axis=0)
    assert knn_accuracy(pairs, ["a", "a", "b", "b", "c", "d"]) == pytest.approx(4 / 6, abs=1e-4)
    assert knn_accuracy(pairs, [None] * 6) is None
