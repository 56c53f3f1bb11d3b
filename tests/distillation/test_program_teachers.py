"""Programs and registered models teach: files that other runtimes read, of our networks and of others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn

from dinomill import features, tracking
from dinomill.distillation.distil import distil, distillation_job
from dinomill.distillation.teacher import find_teacher, given_shape
from dinomill.errors import InputError
from dinomill.export import Format, export
from dinomill.handles import DatasetHandle
from dinomill.models import load
from dinomill.training.history import HISTORY_NAME
from dinomill.training.job import TrainingJob
from dinomill.training.parallel import World
from dinomill.training.trainer import train
from tests.distillation.test_teachers import config, write_teacher

SIDE = 12


class Convolutions(nn.Module):
    """A plain network as torchvision has them: convolutions, batch norm, a pooled map and a last layer."""

    def __init__(self, gives: str) -> None:
        super().__init__()
        self.gives = gives
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU6(inplace=True),
            nn.Conv2d(16, 20, 3, stride=1, padding=1, groups=4),
            nn.Hardswish(inplace=True),
            nn.MaxPool2d(2),
        )
        self.head = nn.Linear(20, 24)

    def forward(self, images: Tensor) -> Tensor:
        """A map [B, 20, 3, 3], or a vector [B, 24]."""
        maps: Tensor = self.features(images)
        if self.gives == "map":
            return maps
        vector: Tensor = self.head(nn.functional.adaptive_avg_pool2d(maps, 1).flatten(1))
        return vector


def convolutions(gives: str) -> Convolutions:
    torch.manual_seed(3)
    model = Convolutions(gives)
    with torch.no_grad():
        for _ in range(4):  # a running mean and spread
            model(torch.randn(32, 1, SIDE, SIDE))
    return model.eval()


def as_onnx(model: nn.Module, path: Path) -> Path:
    batch = torch.export.Dim("batch")
    program = torch.onnx.export(
        model, (torch.randn(2, 1, SIDE, SIDE),), dynamo=True, verbose=False, dynamic_shapes={"images": {0: batch}}
    )
    assert program is not None
    program.save(path)
    return path


def as_pt2(model: nn.Module, path: Path) -> Path:
    batch = torch.export.Dim("batch")
    program = torch.export.export(model, (torch.randn(2, 1, SIDE, SIDE),), dynamic_shapes={"images": {0: batch}})
    torch.export.save(program, path)
    return path


def trained(job: TrainingJob) -> dict[str, Tensor]:
    """The weights of the student `small`, trained in this process."""
    train(job, World(0, 1, torch.device("cpu")))
    return load(job.exported / "small").state_dict()


WRITERS: dict[str, Callable[[nn.Module, Path], Path]] = {"onnx": as_onnx, "pt2": as_pt2}


@pytest.mark.parametrize("form", ["onnx", "pt2", "openvino"])
def test_an_export_of_ours_teaches_as_the_network_does(
    form: Format, digits_dataset: DatasetHandle, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime" if form == "onnx" else "openvino" if form == "openvino" else "torch")
    folder = write_teacher(tmp_path / "teacher")
    program = export(folder, form, tmp_path / "teacher", licence="MIT").path
    found = find_teacher(config(tmp_path, program), None)
    assert (found.dim, found.image_size, found.mean, found.heads_sha256) == (24, 12, (0.3,), None)
    assert given_shape(config(tmp_path, program)) == {"in_channels": 1}
    one, other = (
        trained(distillation_job(digits_dataset, None, None, config(tmp_path / name, address)))
        for name, address in (("weights", folder), ("program", program))
    )
    for name, tensor in one.items():  # eight steps from features that agree to rounding
        torch.testing.assert_close(other[name], tensor, atol=2e-3, rtol=1e-2)
    if form == "pt2":  # the whole stage, whose workers open it for themselves
        handle = distil(digits_dataset, None, None, config(tmp_path / "stage", program))
        assert handle.students["small"].licence == "MIT"


@pytest.mark.parametrize("gives", ["map", "vector"])
@pytest.mark.parametrize("form", ["onnx", "pt2"])
def test_a_program_of_another_network_teaches(
    form: str, gives: str, digits_dataset: DatasetHandle, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = convolutions(gives)
    path = WRITERS[form](model, tmp_path / f"other.{form}")
    images = torch.randn(5, 1, SIDE, SIDE)
    with torch.no_grad():
        expected = model(images)
    seen = features.open(path)(images)
    width = 20 if gives == "map" else 24
    if gives == "map":
        assert seen.patches is not None
        torch.testing.assert_close(seen.patches, expected.flatten(2).mT, atol=1e-5, rtol=1e-4)
        expected = expected.mean(dim=(2, 3))
    torch.testing.assert_close(seen.cls, expected, atol=1e-5, rtol=1e-4)
    cache = {"folder": str(tmp_path / "kept"), "views": 1}
    for objective, kept in (("clusters", None), ("regression", cache)):
        chosen = config(tmp_path / objective, path, objective=objective, cache=kept, steps=20)
        job = distillation_job(digits_dataset, None, None, chosen)
        assert job.teaching is not None and job.teaching.dim == width
        trained(job)
        rows = pq.read_table(job.exported / "small" / HISTORY_NAME).to_pylist()
        losses = [row["loss"] for row in rows if row["loss"] is not None]
        assert losses[-1] < losses[0]


def test_a_registered_model_teaches_what_its_alias_meant_at_the_start(
    digits_dataset: DatasetHandle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    hashes = []
    for seed in (0, 1):
        folder = write_teacher(tmp_path / f"export-{seed}", seed=seed)
        hashes.append(features.describe(folder).weights_sha256)
        register(store, folder)
    tracking.set_alias(store, "mill", "candidate", 1)
    address = "models:/mill@candidate"
    chosen = config(tmp_path, address)
    job = distillation_job(digits_dataset, None, None, chosen)
    assert job.teacher_sha256 == hashes[0]
    assert job.teacher is not None and Path(job.teacher).is_dir()  # workers need no registry
    student = distil(digits_dataset, None, None, chosen).students["small"]
    assert student.teacher_sha256 == hashes[0]
    assert student.origin is not None and address in student.origin
    tracking.set_alias(store, "mill", "candidate", 2)
    assert distillation_job(digits_dataset, None, None, chosen).teacher_sha256 == hashes[1]
    with pytest.raises(InputError, match=r"distillation\.teacher: The registry .* has no models:/mill@nobody"):
        distillation_job(digits_dataset, None, None, config(tmp_path, "models:/mill@nobody"))


def register(store: str, folder: Path) -> None:
    from dinomill.registration.example import example_table

    with tracking.open_run("a test", tracking_uri=store) as run:
        card = tracking.ModelCard(
            loader="dinomill.serving.pyfunc",
            example=example_table(1, SIDE),
            embed_dim=24,
            requirements=(),
            metrics={},
            tags={},
            description="",
            summary="",
        )
        tracking.register(run, "mill", folder, card)
