"""How weights are drawn when none are given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dinomill.errors import ConfigError
from dinomill.images.batches import Batch
from dinomill.models import ConvNeXt, VisionTransformer, VisionTransformerConfig
from dinomill.models.convnext_config import ConvNeXtConfig
from dinomill.storage.hashing import hash_file
from dinomill.training.config import InitialisationConfig, StatedModel
from dinomill.training.engine import Engine, build_module
from dinomill.training.initialisation import first_layer, lecun_normal, patch_statistics, patches, whiten
from dinomill.training.job import TrainingJob
from dinomill.training.loading import build_loader
from dinomill.training.parallel import World
from dinomill.training.starting import StartingWeights, resolve_model
from dinomill.training.trainer import train

MakeJob = Callable[..., TrainingJob]
HERE = World(0, 1, torch.device("cpu"))
WHITENED = {"student": {"patch_init": "whitened"}}


def projected(backbone: VisionTransformer, images: torch.Tensor) -> torch.Tensor:
    """The patch tokens ``[T, D]`` before anything else happens to them."""
    with torch.no_grad():
        return backbone.patch_embed(images).flatten(0, 1)


def test_whitened_patches_have_the_identity_as_their_covariance(make_job: MakeJob) -> None:
    job = make_job(initialisation=WHITENED)
    backbone = build_module(job).student("student").backbone
    # Other crops of the same images, by another seed.
    other = make_job(recipe={"seed": 9, "batch_size": 256, "steps": 2})
    with build_loader(other, job.dataset, HERE, start_step=0) as loader:
        crops = torch.cat([batch.global_crops for batch in loader])
    covariance = projected(backbone, crops).T.cov()
    variances = torch.linalg.eigvalsh(covariance.double()).flip(0)
    # 16 numbers a patch become 32: a rotation fills 16 directions evenly, and leaves the others empty. The corner of a
    # digit is nearly always black: the last directions hold less than the floor lets through.
    assert variances[16:].abs().max() < 1e-4
    assert variances[:8].max() < 1.25
    assert variances[:8].min() > 0.8
    plain = projected(build_module(make_job()).student("student").backbone, crops).T.cov()
    plain_variances = torch.linalg.eigvalsh(plain.double()).flip(0)
    assert plain_variances[0] / plain_variances[7] > 10 * variances[0] / variances[7]


def test_fewer_directions_than_numbers_are_an_even_mixture() -> None:
    torch.manual_seed(0)
    mixing = torch.randn(48, 48, dtype=torch.float64)
    seen = torch.randn(20_000, 48, dtype=torch.float64) @ mixing + 3
    backbone = VisionTransformer(
        VisionTransformerConfig(image_size=8, patch_size=4, embed_dim=12, depth=1, num_heads=1)
    )
    with torch.no_grad():
        whiten(backbone, seen.mean(dim=0), seen.T.cov(correction=0), torch.Generator().manual_seed(1))
    proj = backbone.patch_embed.proj
    tokens = seen.float() @ proj.weight.flatten(1).T + proj.bias
    assert tokens.mean(dim=0).abs().max() < 1e-3
    assert (tokens.T.cov() - torch.eye(12)).abs().max() < 0.15


def test_patches_are_those_that_the_embedding_sees() -> None:
    images = torch.randn(3, 3, 12, 12)
    backbone = VisionTransformer(
        VisionTransformerConfig(image_size=12, patch_size=4, embed_dim=8, depth=1, num_heads=1)
    )
    proj = backbone.patch_embed.proj
    with torch.no_grad():
        tokens = patches(images, 4) @ proj.weight.flatten(1).T + proj.bias
    assert torch.allclose(tokens, projected(backbone, images), atol=1e-5)


def test_the_stem_of_a_convolutional_network_is_whitened_too() -> None:
    torch.manual_seed(0)
    backbone = ConvNeXt(ConvNeXtConfig(kind="convnext", stem=2, dims=(16,), depths=(1,))).requires_grad_(False)
    mixing = torch.linspace(0.5, 2, 12).diag() @ torch.linalg.qr(torch.randn(12, 12)).Q
    rows = torch.randn(20_000, 12) @ mixing + 1
    images = rows.view(-1, 3, 2, 2)
    whiten(backbone, rows.double().mean(dim=0), torch.cov(rows.double().T), torch.Generator().manual_seed(0))
    given = first_layer(backbone)(images).flatten(1)
    spread = torch.linalg.eigvalsh(torch.cov(given.T))
    torch.testing.assert_close(spread, torch.tensor([0.0] * 4 + [1.0] * 12), atol=0.1, rtol=0)  # 12 of 16 directions
    torch.testing.assert_close(given.mean(dim=0), torch.zeros(16), atol=1e-3, rtol=0)


def test_images_that_never_differ_are_no_division_by_zero() -> None:
    backbone = VisionTransformer(VisionTransformerConfig(image_size=8, patch_size=4, embed_dim=8, depth=1, num_heads=1))
    with torch.no_grad():
        whiten(backbone, torch.zeros(48), torch.zeros(48, 48), torch.Generator())
    assert all(parameter.isfinite().all() for parameter in backbone.parameters())


def test_every_process_starts_with_the_same_weights_whatever_its_workers(make_job: MakeJob) -> None:
    def started(**changes: Any) -> dict[str, torch.Tensor]:
        return Engine(make_job(**changes), HERE).module.state_dict()

    once, plain = started(initialisation=WHITENED), started()
    again = started(initialisation=WHITENED, runtime={"loader": {"workers": 3}})
    assert all(torch.equal(tensor, again[name]) for name, tensor in once.items())
    # The teacher, the student's average, starts with them too; nothing else was drawn otherwise.
    embeddings = {name for name in plain if ".patch_embed.proj." in name}
    assert len(embeddings) == 4
    assert {name for name in plain if not torch.equal(plain[name], once[name])} == embeddings
    other = started(initialisation=WHITENED, recipe={"seed": 1})
    assert not any(torch.equal(once[name], other[name]) for name in embeddings)


def test_statistics_are_of_whole_crops_and_deterministic(make_job: MakeJob) -> None:
    job = make_job()
    mean, covariance = patch_statistics(job, 4)
    assert mean.shape == (16,)
    assert torch.equal(covariance, patch_statistics(job, 4)[1])
    assert (covariance - covariance.T).abs().max() < 1e-12
    assert torch.linalg.eigvalsh(covariance).min() > -1e-9


def test_linear_layers_have_the_deviation_of_their_width(make_job: MakeJob) -> None:
    job = make_job(initialisation={"student": {"linear_init": "lecun_normal"}})
    backbone = build_module(job).student("student").backbone
    for block in backbone.requires_grad_(False).blocks:
        assert block.attn.qkv.weight.std() == pytest.approx(32**-0.5, rel=0.1)
        assert block.mlp.fc2.weight.std() == pytest.approx(128**-0.5, rel=0.1)
        assert not block.mlp.fc2.bias.any()
    before = backbone.patch_embed.proj.weight.clone()
    lecun_normal(backbone, torch.Generator())
    assert torch.equal(before, backbone.patch_embed.proj.weight)


def test_what_is_as_always_keeps_its_folder_and_what_is_not_has_another(make_job: MakeJob) -> None:
    plain = make_job()
    assert "initialisation" not in plain.identity()
    assert make_job(initialisation=WHITENED).work != plain.work


def test_students_of_a_distillation_are_drawn_each_as_it_says(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job(work_root=tmp_path / "teacher", recipe={"steps": 2})
    train(job, HERE)
    step = {"head": {"hidden_dim": 32, "bottleneck_dim": 16}, "precision": "fp32", "patch_share": 1.0}
    values = job.model_dump(mode="json") | {"stage": "distillation", "step": step}
    teacher = job.exported / "student"
    values |= {"teacher": str(teacher), "teacher_sha256": hash_file(teacher / "model.safetensors")}
    values |= {"models": dict.fromkeys("ab", values["models"]["student"])}
    plain = Engine(TrainingJob.parse(values, where="a test"), HERE).module
    values["initialisation"] = {"b": WHITENED["student"]}
    module = Engine(TrainingJob.parse(values, where="a test"), HERE).module
    name = "patch_embed.proj.weight"
    for student, same in (("a", True), ("b", False)):
        weights = [one.student(student).backbone.state_dict()[name] for one in (plain, module)]
        assert torch.equal(*weights) == same


def test_a_run_that_was_interrupted_ends_with_the_same_weights(
    make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make_job(initialisation=WHITENED, work_root=tmp_path / "whole")
    train(whole, HERE)
    cut = make_job(initialisation=WHITENED, work_root=tmp_path / "cut")
    step = Engine.step

    def stops(self: Engine, number: int, batches: Sequence[Batch]) -> dict[str, torch.Tensor]:
        if number == 6:
            raise KeyboardInterrupt
        return step(self, number, batches)

    monkeypatch.setattr(Engine, "step", stops)
    with pytest.raises(KeyboardInterrupt):
        train(cut, HERE)
    monkeypatch.undo()
    train(cut, HERE)
    one, two = (load_file(job.exported / "student" / "model.safetensors") for job in (whole, cut))
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())


def stated(**keys: Any) -> StatedModel:
    return StatedModel.parse(keys, where="a test")


def test_weights_that_are_given_are_not_drawn() -> None:
    shape = VisionTransformerConfig(image_size=56, embed_dim=48, depth=2, num_heads=6, layerscale=1.0)
    given = StartingWeights("some/weights", "some/weights", shape, None, None, "0" * 64)
    with pytest.raises(ConfigError, match="says how weights are drawn") as caught:
        resolve_model(stated(patch_init="whitened"), given, 3)
    assert "take patch_init and linear_init out of pretraining.model" in str(caught.value)
    assert resolve_model(StatedModel.model_construct(), given, 3) == shape
    assert resolve_model(stated(patch_init="random"), None, 3).patch_size == 14


def test_a_word_for_the_usual_draw_is_none() -> None:
    assert stated(patch_init="random", linear_init="trunc_normal").initialisation is None
    assert stated(patch_init="whitened").initialisation == InitialisationConfig(patch_init="whitened")
