"""A ConvNeXt learns from a vision transformer, beside another one of other patches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from dinomill import features
from dinomill.distillation.config import DistillationConfig
from dinomill.distillation.distil import distil, distillation_job
from dinomill.distillation.students import resolve_students
from dinomill.errors import ConfigError
from dinomill.handles import DatasetHandle, ModelHandle
from dinomill.images.preprocess import PreprocessingConfig
from dinomill.models import ConvNeXt, load, read_config, save_backbone
from dinomill.models.convnext_config import ConvNeXtConfig
from dinomill.pretraining.config import PretrainingConfig
from dinomill.pretraining.pretrain import pretrain
from dinomill.training.engine import build_shared
from dinomill.training.initialisation import patch_statistics
from dinomill.training.parallel import World
from tests.distillation.test_distil import MODEL, shared

CONVNEXT = {"kind": "convnext", "stem": 1, "dims": [8, 16], "depths": [1, 1], "layerscale": 1.0}


@pytest.fixture(scope="module")
def teacher(digits_dataset: DatasetHandle, tmp_path_factory: pytest.TempPathFactory) -> ModelHandle:
    values = shared(tmp_path_factory.mktemp("teacher"))
    step = {"head": {"hidden_dim": 32, "bottleneck_dim": 16, "prototypes": 64}}
    values |= {"model": MODEL | {"layerscale": 1.0}, "step": step, "masking": {"min_patches": 1}, "steps": 2}
    return pretrain(digits_dataset, None, PretrainingConfig.parse(values, where="a test"))


def config(folder: Path, **changes: Any) -> DistillationConfig:
    values = shared(folder) | {
        "students": {"conv": CONVNEXT, "fine": MODEL | {"embed_dim": 16, "patch_size": 2, "layerscale": 1.0}},
        "step": {"head": {"hidden_dim": 32, "bottleneck_dim": 16}},
    }
    return DistillationConfig.parse(values | changes, where="a test")


@pytest.mark.parametrize("objective", ["assignments", "regression"])
def test_it_is_trained_and_handed_on_like_the_others(
    digits_dataset: DatasetHandle, digits_labelled: Path, teacher: ModelHandle, tmp_path: Path, objective: str
) -> None:
    runtime = {"device": "cpu", "log_every": 2, "monitor": {"every": 3, "images": 32, "copies": 16}}
    handle = distil(
        digits_dataset, teacher, str(digits_labelled), config(tmp_path, objective=objective, runtime=runtime)
    )
    student = handle.students["conv"]
    assert handle.champion == "conv"
    network = load(student.folder)
    assert isinstance(network, ConvNeXt)
    assert network.config == ConvNeXtConfig.model_validate(CONVNEXT | {"in_channels": 1})
    assert (student.embed_dim, student.parameters) == (16, sum(p.numel() for p in network.parameters()))
    # What is handed on is a moving average that has moved: not the weights that the seed drew.
    drawn, _ = build_shared(
        distillation_job(digits_dataset, teacher, None, config(tmp_path, objective=objective)),
        World(0, 1, torch.device("cpu")),
    )
    before = drawn.average("conv").backbone.state_dict()
    moved = [name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])]
    assert len(moved) == len(before)
    rows = pq.read_table(student.history).to_pylist()
    assert [row["step"] for row in rows][-1] == 6
    losses = [row["loss"] for row in rows if row["loss"] is not None]
    assert losses
    assert losses[-1] < losses[0] < 100


def test_what_does_not_fit_names_the_student(tmp_path: Path) -> None:
    teacher = {"patch_size": 4, "in_channels": 1}
    for changes, message in (
        ({"stem": 4}, r"students\.conv: its places are larger than the local crops"),
        ({"stem": 3}, r"students\.conv: its places do not divide crops\.global_size"),
        ({"in_channels": 3}, r"students\.conv\.in_channels is not the teacher's"),
    ):
        with pytest.raises(ConfigError, match=message):
            resolve_students(config(tmp_path, students={"conv": CONVNEXT | changes}), teacher, "teacher")
    low = {"global_size": 4, "local_size": 4, "until": 0.5}
    for student, sizes, message in (
        (CONVNEXT | {"stem": 4}, {"local_size": 8}, r"students\.conv: its places do not divide low_resolution\.global"),
        (
            {"patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2},
            {"local_crops": 0},
            r"patch_size does not divide low_",
        ),
    ):
        crops = {"global_size": 16, "local_size": 8, "local_crops": 2, "blur": [0, 0, 0]} | sizes
        with pytest.raises(ConfigError, match=message):
            asked = config(tmp_path, students={"conv": student}, crops=crops, low_resolution=low)
            resolve_students(asked, teacher, "teacher")
    for changes, message in (
        ({"depths": [1]}, r"students\.conv: dims are 2 stages, depths 1"),
        ({"embed_dim": 3}, r"students\.conv: unknown key 'embed_dim'"),
        ({"stem": "wide"}, r"students\.conv\.stem: "),
        ({"kind": "resnet"}, r"students\.conv: kind is vit or convnext"),
    ):
        with pytest.raises(ConfigError, match=message):
            config(tmp_path, students={"conv": CONVNEXT | changes})


def test_its_stem_and_linear_layers_can_be_drawn_otherwise(
    digits_dataset: DatasetHandle, teacher: ModelHandle, tmp_path: Path
) -> None:
    how = {"linear_init": "lecun_normal", "patch_init": "whitened"}
    stated = config(tmp_path, students={"conv": CONVNEXT | how})
    module, _ = build_shared(distillation_job(digits_dataset, teacher, None, stated), World(0, 1, torch.device("cpu")))
    backbone = module.student("conv").backbone
    weight = backbone.get_parameter("stages.1.0.pwconv1.weight")
    assert float(weight.detach().std()) == pytest.approx(16**-0.5, rel=0.15)
    # One number a patch, of which eight are made: its spread becomes one.
    job = distillation_job(digits_dataset, teacher, None, stated)
    _, variance = patch_statistics(job, 1)
    stem = backbone.get_parameter("patch_embed.conv.weight").detach()
    assert float(stem.square().sum() * variance[0, 0]) == pytest.approx(1, rel=0.01)


def test_it_teaches_too_and_a_licence_that_nobody_knows_is_said(
    digits_dataset: DatasetHandle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    teacher = ConvNeXt(ConvNeXtConfig.model_validate(CONVNEXT | {"in_channels": 1}))
    save_backbone(tmp_path / "theirs", teacher, PreprocessingConfig.square(8, (0.3,), (0.35,)).section())
    student = MODEL | {"embed_dim": 16, "patch_size": 4, "layerscale": 1.0}
    changes = {"teacher": str(tmp_path / "theirs"), "objective": "regression", "students": {"vit": student}}
    found = distil(digits_dataset, None, None, config(tmp_path, **changes)).students["vit"]
    said = [record for record in caplog.records if "LICENCE UNKNOWN" in record.message]
    assert len(said) == 1
    assert "distillation.licence" in said[0].message
    assert (found.licence, found.origin) == (None, "distilled from theirs")
    assert read_config(found.folder)["licence"] == "unknown"
    assert features.describe(found.folder).licence is None

    # Stated later, it goes in without training again.
    caplog.clear()
    again = distil(digits_dataset, None, None, config(tmp_path, **changes, licence="MIT")).students["vit"]
    assert not [record for record in caplog.records if "LICENCE" in record.message]
    assert (again.licence, again.weights_sha256) == ("MIT", found.weights_sha256)
    assert features.describe(again.folder).licence == "MIT"
    assert len(list((tmp_path / "work").iterdir())) == 1
