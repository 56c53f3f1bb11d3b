"""Backends compute what the model computes, are measured in processes of their own, and are chosen by figures."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from dinomill.arrays import Floats
from dinomill.errors import ConfigError, InputError, MachineError
from dinomill.images.preprocess import PreprocessingConfig, preprocess_bytes
from dinomill.models import VisionTransformer, save_backbone, variant
from dinomill.serving.backends import measure as measuring
from dinomill.serving.backends import select as selecting
from dinomill.serving.backends.choice import EAGER, Backend, every_backend, why_not
from dinomill.serving.backends.config import BackendConfig
from dinomill.serving.backends.measured import Load, Measured
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
    folder: Path, images: Floats, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="dinomill")
    pytest.importorskip("openvino")
    np.ones(175_000_000).sum()  # 1.4 GB, for a moment
    values = QUICK | {"candidates": ["eager", "openvino"], "precisions": ["float32"]}
    found = select(folder, images, tmp_path, BackendConfig.parse(values, where="a test"), threads=1, batch_size=4)
    assert [row.backend.runtime for row in found.table] == ["eager", "openvino"]
    assert [load.clients for load in found.table[0].loads] == [1, 3]
    for row in found.table:
        assert row.min_cosine >= 0.9999
        assert row.cold_start_seconds > 0
        assert row.cold_start_cpu > 0
        assert 50 < row.memory_mb < 1300  # not that of the process which packages
        assert (row.knn, row.knn_loss, row.knn_images) == (None, None, 0)
        assert all(load.images_per_cpu_second > 0 and load.p99_ms >= load.p50_ms > 0 for load in row.loads)
    assert {path.name for path in tmp_path.iterdir()} == set(found.backend.files)
    said = [record.getMessage() for record in caplog.records if "of 2:" in record.getMessage()]
    assert [line.partition(",")[0] for line in said] == ["1 of 2: eager float32", "2 of 2: openvino float32"]


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
    assert shown[0] == "| backend | 1 client | worst cosine | neighbours | kNN | kNN lost | start, CPU-s | MB | |"
    assert shown[2].startswith("| onnxruntime float32 | 30.2 |")
    assert shown[2].endswith("| cosine 0.9 for the worst image |")
    assert shown[3].startswith("| **eager float32** | 2.0 | 1.00000 |")
    assert shown[-1] == "- openvino float32: openvino not installed"
    assert {line.count("|") for line in shown[:4]} == {10}
    assert "nothing was measured" in render_backends([], {}, "eager float32")


def test_what_loses_more_of_knn_than_is_allowed_is_refused_and_says_so() -> None:
    labels = [name for name in "ab" for _ in range(10)]
    own = np.repeat(np.eye(2, 8, dtype=np.float32), 10, axis=0)
    own += np.random.default_rng(0).normal(0, 0.01, own.shape).astype(np.float32)
    worse = own.copy()
    worse[0] = own[10]  # its nearest is of the other class now, and it is the nearest of that and of another one
    curated = np.random.default_rng(1).normal(size=(12, 8)).astype(np.float32)
    both = [np.concatenate([curated, vectors]) for vectors in (worse, own)]
    row = selecting._judged(_row("onnxruntime", 3), both[0], both[1], BackendConfig(), labels)
    assert (row.min_cosine, row.neighbours) == (pytest.approx(1), 1.0)  # of the curated images alone
    assert (row.knn, row.knn_loss, row.knn_images) == (0.85, 0.15, 20)
    assert row.refused == (
        "kNN 85.0% of 20 labelled images, and the model's own 100.0%: 15.0% less, and 1.0% are allowed"
    )
    unbounded = BackendConfig.parse({"max_knn_loss": None}, where="a test")
    assert selecting._judged(_row("onnxruntime", 3), both[0], both[1], unbounded, labels).refused is None
    better = selecting._judged(_row("onnxruntime", 3), both[1], both[0], BackendConfig(), labels)
    assert better.knn_loss == -0.15
    assert better.refused is None


def test_what_hangs_is_ended_with_what_it_has_started(tmp_path: Path) -> None:
    child = [sys.executable, "-c", "import time; time.sleep(300)"]
    hung = (
        "import subprocess, sys, time\n"
        f"child = subprocess.Popen({child!r})\n"
        f"open({str(tmp_path / 'child')!r}, 'w').write(str(child.pid))\n"
        "time.sleep(300)\n"
    )
    status, said = measuring._run([sys.executable, "-S", "-c", hung], dict(os.environ), tmp_path, 2.0)
    assert (status, said) == (1, "it did not end within 2 seconds")
    assert _has_ended(int((tmp_path / "child").read_text()))
    failing = [sys.executable, "-c", "raise SystemExit('no such program')"]
    assert measuring._run(failing, dict(os.environ), tmp_path, 60.0) == (1, "no such program")


_STARTS = """
import os, sys
from pathlib import Path
from dinomill.serving.backends.measure import _run
said = "import os, time; open('child', 'w').write(str(os.getpid())); os.rename('child', 'pid'); time.sleep(300)"
_run([sys.executable, "-S", "-c", said], dict(os.environ), Path(), 300.0)
"""


def test_a_measuring_process_ends_with_who_started_it(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", _STARTS], cwd=tmp_path) as packaging:
        deadline = time.monotonic() + 60
        while not (tmp_path / "pid").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        packaging.kill()
    assert _has_ended(int((tmp_path / "pid").read_text()))


def test_a_measuring_process_gets_no_secrets(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, str] = {}

    def note(_command: list[str], environment: dict[str, str], *_: object) -> tuple[int, str]:
        seen.update(environment)
        return 1, "noted"

    monkeypatch.setattr(measuring, "_run", note)
    monkeypatch.setenv("HF_TOKEN", "secret")
    np.save(tmp_path / "images.npy", np.zeros((1, 3, 42, 42), np.float32))
    told = measuring.Specification(
        folder=folder, programs=tmp_path, backend=EAGER, images=tmp_path / "images.npy", threads=3, batch_size=1,
        clients=(1,), seconds=1,
    )  # fmt: skip
    with pytest.raises(MachineError, match="cannot be measured"):
        measuring.measure(told, tmp_path)
    assert seen["OMP_NUM_THREADS"] == "3"
    assert "PATH" in seen
    assert "HF_TOKEN" not in seen


def _has_ended(process: int) -> bool:
    """Within some seconds: a process that is told to end is there for a moment."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            if psutil.Process(process).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.slow
def test_a_runtime_that_hangs_is_ended_and_named(
    folder: Path, images: Floats, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    stub = tmp_path / "stubs" / "openvino" / "__init__.py"
    stub.parent.mkdir(parents=True)
    child = [sys.executable, "-c", "import time; time.sleep(300)"]  # as a compiler that it has started
    stub.write_text(
        "import pathlib, subprocess, time\n"
        f"child = subprocess.Popen({child!r})\n"
        f"pathlib.Path({str(tmp_path / 'child')!r}).write_text(str(child.pid))\n"
        "time.sleep(300)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(stub.parents[1]))
    honest = measuring.time_limit
    limits = lambda told: honest(told) if told.backend == EAGER else 15.0  # noqa: E731
    monkeypatch.setattr(measuring, "time_limit", limits)
    values = QUICK | {"candidates": ["eager", "openvino"], "precisions": ["float32"]}
    programs = tmp_path / "programs"
    found = select(folder, images, programs, BackendConfig.parse(values, where="a test"), threads=1, batch_size=4)
    assert found.backend == EAGER
    assert found.left_out == {"openvino float32": "it did not end within 15 seconds"}
    assert _has_ended(int((tmp_path / "child").read_text()))


def test_the_time_limit_grows_with_what_is_computed(folder: Path, images: Floats, tmp_path: Path) -> None:
    np.save(tmp_path / "few.npy", images)
    np.save(tmp_path / "many.npy", np.zeros((500, 3, 224, 224), np.float32))
    (tmp_path / "model.safetensors").write_bytes(b"")
    os.truncate(tmp_path / "model.safetensors", 10**8)
    told = measuring.Specification(
        folder=folder,
        programs=tmp_path,
        backend=EAGER,
        images=tmp_path / "few.npy",
        threads=1,
        batch_size=4,
        clients=(1, 8),
        seconds=0.05,
    )
    assert 300 < measuring.time_limit(told) < 310
    large = told.model_copy(update={"folder": tmp_path, "images": tmp_path / "many.npy", "seconds": 2.0})
    assert measuring.time_limit(large) == pytest.approx(300 + 2 * 2 * 20 + 500)


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
