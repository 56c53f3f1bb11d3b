"""A version's readers see what serves it: in its tags, which lead to the package's README."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient

from dinomill import tracking
from dinomill.handles import PackageHandle, RegistrationHandle
from dinomill.packaging.record import record
from dinomill.serving.backends.choice import Backend
from dinomill.serving.backends.measured import Load, Measured
from dinomill.tracking.registry import set_tags
from dinomill.tracking.sync import synchronise

_WEIGHTS = "a" * 64


def _package(folder: Path, **changes: object) -> PackageHandle:
    (folder / "README.md").write_text("| **openvino bfloat16** | 35.1 |")
    loads = tuple(
        Load(clients=one, images_per_second=9, images_per_cpu_second=35 + one, p50_ms=1, p99_ms=1) for one in (1, 8)
    )
    row = Measured(
        backend=Backend(runtime="openvino", precision="bfloat16"),
        cold_start_seconds=1,
        cold_start_cpu=1,
        memory_mb=1,
        loads=loads,
        knn=0.7,
        knn_loss=0.004,
        knn_images=256,
    )
    handle = PackageHandle(
        folder=folder,
        made_of="",
        archive=folder / "mill.mar",
        archive_sha256="0" * 64,
        model="served-mill",
        version=1,
        weights_sha256=_WEIGHTS,
        embed_dim=64,
        smoke={"latency_ms": 11.74, "cosine": 0.999998},
        backend="openvino bfloat16",
        backends=(row.model_dump(mode="json"),),
        call_images=64,
        call_reason="packaging.batching.max_instances",
    )
    return handle.model_copy(update=changes)


def _registered(folder: Path) -> RegistrationHandle:
    return RegistrationHandle(
        folder=folder,
        made_of="",
        model="mill",
        version=1,
        aliases=(),
        uri="models:/mill/1",
        weights_sha256=_WEIGHTS,
        source=folder,
        passed_gate=True,
        gate=(),
    )


def test_the_versions_page_says_what_serves_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = f"sqlite:///{tmp_path}/mlflow.db"
    with tracking.open_run("packaging", tracking_uri=store) as run:
        client = MlflowClient(store)
        client.create_registered_model("mill")
        client.create_model_version("mill", source=str(tmp_path), tags={"weights_sha256": _WEIGHTS})
        record(run, _package(tmp_path), _registered(tmp_path))
        # Another registry's version 1, and one that is not here: a warning, and no end of the stage.
        record(run, _package(tmp_path, weights_sha256="b" * 64, backend="other"), _registered(tmp_path))
        record(run, _package(tmp_path, version=9), _registered(tmp_path))
    assert "has other weights in this registry" in caplog.text
    assert "has no version 9 of mill" in caplog.text
    assert run.run_id is not None
    tags = client.get_model_version("mill", "1").tags
    assert tags == {
        "weights_sha256": _WEIGHTS,
        "served_backend": "openvino bfloat16",
        "served_latency_ms": "11.7",
        "served_cosine": "1.00000",
        "served_call_images": "64: packaging.batching.max_instances",
        "served_images_per_cpu_second": "36.0 at 1, 43.0 at 8 clients, without a server",
        "served_knn": "70.0% of 256 labelled images, 0.4% lost",
        "package_card": f"runs:/{run.run_id}/package/README.md",
    }
    (kept,) = client.list_artifacts(run.run_id, "package")
    assert kept.path == "package/README.md"
    # Registered again, its card is written anew and these stay.
    version = tracking.resolve("models:/mill/1", store)
    tracking.annotate(store, version, description="new card", tags={"gate": "passed"})
    assert tracking.resolve("models:/mill/1", store).tags == tags | {"gate": "passed"}
    set_tags(store, version, {"served_backend": "eager float32"})


def test_without_a_run_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    record(tracking.attach(), _package(tmp_path), _registered(tmp_path))
    assert synchronise() == []
