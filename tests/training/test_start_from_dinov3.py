"""Training starts from an official DINOv3 file: the same weights, another objective, and a loss that falls."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import torch

import dinomill
from dinomill.features import describe
from dinomill.models import VisionTransformer, VisionTransformerConfig
from dinomill.models.position import rope_periods
from dinomill.training.engine import build_module
from dinomill.training.job import TrainingJob
from dinomill.training.parallel import World
from dinomill.training.trainer import train

HERE = World(0, 1, torch.device("cpu"))


def official(path: Path) -> Path:
    torch.manual_seed(0)
    model = VisionTransformer(
        VisionTransformerConfig(
            image_size=8,
            patch_size=4,
            in_channels=1,
            embed_dim=32,
            depth=2,
            num_heads=2,
            layerscale=1.0,
            registers=2,
            position="rope",
            qkv_bias="query_value",
            norm_eps=1e-5,
            local_cls_norm=True,
        )
    )
    tensors = {name.replace("register_tokens", "storage_tokens"): t for name, t in model.state_dict().items()}
    mask = torch.cat([torch.ones(32), torch.zeros(32), torch.ones(32)])
    tensors |= {f"blocks.{block}.attn.qkv.bias_mask": mask for block in range(2)}
    tensors["rope_embed.periods"] = rope_periods(16, 100.0).bfloat16()
    torch.save(tensors, path)
    return path


def test_a_dinov3_file_is_trained_on(make_job: Callable[..., TrainingJob], tmp_path: Path) -> None:
    weights = official(tmp_path / "dinov3.pth")
    model = describe(str(weights)).model
    assert model is not None
    config = model.model_copy(update={"image_size": 8})
    job = make_job(
        initial=weights,
        initial_sha256="0" * 64,
        models={"student": config.model_dump(mode="json")},
        recipe={"steps": 24},
    )
    start = build_module(job).student("student").backbone
    assert torch.equal(start.state_dict()["register_tokens"], dinomill.load(weights).register_tokens)
    train(job, HERE)
    trained = dinomill.load(job.exported / "student")
    assert trained.config == config
    state = trained.state_dict()
    assert torch.equal(state["blocks.0.attn.qkv.bias"][32:64], torch.zeros(32))
    assert not torch.equal(state["local_cls_norm.weight"], torch.ones(32))
    losses = pq.read_table(job.exported / "student" / "history.parquet")["loss"].to_pylist()
    assert losses[-1] < losses[0]


def test_a_norm_for_local_crops_waits_for_none_without_them(
    make_job: Callable[..., TrainingJob], tmp_path: Path
) -> None:
    weights = official(tmp_path / "dinov3.pth")
    model = describe(str(weights)).model
    assert model is not None
    shape = model.model_copy(update={"image_size": 8}).model_dump(mode="json")
    without = make_job(models={"student": shape}, recipe={"crops": {"local_crops": 0}})
    norm = build_module(without).student("student").backbone.local_cls_norm
    assert norm is not None
    assert not norm.weight.requires_grad
    norm = build_module(make_job(models={"student": shape})).student("student").backbone.local_cls_norm
    assert norm is not None
    assert norm.weight.requires_grad
