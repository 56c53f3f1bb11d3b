"""Distillation into several students from one teacher pass; shared heads; Gram anchoring; moving averages."""

from types import SimpleNamespace

import pytest
import torch

from dinomill.models import HeadConfig, VisionTransformer, VisionTransformerConfig
from dinomill.training.config import DistillationStepConfig, OptimizerConfig, PretrainingStepConfig
from dinomill.training.losses.config import GramConfig
from dinomill.training.network import Network
from dinomill.training.objectives.assignments import Assignments
from dinomill.training.objectives.pretraining import Pretraining
from dinomill.training.optimizer import build_optimizer
from dinomill.training.schedules import ScheduleValues
from dinomill.training.step import train_step

HEAD = HeadConfig(hidden_dim=32, bottleneck_dim=16, prototypes=24)
BATCH, PATCHES = 4, 16


def network(dim, separate=False):
    shape = VisionTransformerConfig(image_size=28, patch_size=7, embed_dim=dim, depth=2, num_heads=2, layerscale=0.5)
    return Network(VisionTransformer(shape), HEAD, separate_heads=separate)


def values(step=0):
    return ScheduleValues(step, 1e-3, 1e-3, 0.04, 0.9, 0.07)


def batch():
    random = torch.Generator().manual_seed(0)
    masks = torch.rand(2 * BATCH, PATCHES, generator=random) < 0.4
    return SimpleNamespace(
        global_crops=torch.randn(2 * BATCH, 3, 28, 28, generator=random),
        local_crops=torch.randn(2 * BATCH, 3, 14, 14, generator=random),
        anchor_crops=torch.randn(2 * BATCH, 3, 56, 56, generator=random),
        masks=masks,
        mask_indices=masks.flatten().nonzero()[:, 0],
        mask_weights=(1 / masks.sum(1, keepdim=True).clamp(min=1)).expand_as(masks)[masks],
    )


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def steps(module, count=1):
    module.train()
    optimizer = build_optimizer(module, OptimizerConfig())
    return [train_step(module, module, optimizer, batch(), values(step), clip_gradient=3.0) for step in range(count)]


def test_several_students_learn_from_one_frozen_teacher():
    students = {"narrow": network(16), "wide": network(32)}
    config = DistillationStepConfig(head=HEAD, precision="fp32")
    module = Assignments(students, config, teacher=network(48))
    before = [p.clone() for p in module.teacher.parameters()]
    first, *_, last = steps(module, 25)
    assert all(torch.equal(a, b) for a, b in zip(before, module.teacher.parameters(), strict=True))
    for name in students:
        terms = [value for key, value in first.items() if key.startswith(f"{name}/") and "norm" not in key]
        assert len(terms) == 4
        for term in ("dino_local", "dino_global", "ibot"):
            assert last[f"{name}/{term}"] < first[f"{name}/{term}"]
    parts = [value for key, value in first.items() if "/" in key and "norm" not in key]
    torch.testing.assert_close(torch.stack(parts).sum(), first["total"])


@pytest.mark.parametrize(("share", "expected"), [(1.0, PATCHES), (0.25, 4)])
def test_a_distillation_looks_at_all_patches_or_an_even_share(share, expected):
    config = DistillationStepConfig(head=HEAD, patch_share=share)
    module = Assignments({"student": network(16)}, config, teacher=network(16))
    indices, weights = module.learnt(batch(), (4, 4))
    assert torch.equal((indices // PATCHES).bincount(), torch.full((2 * BATCH,), expected))
    torch.testing.assert_close(weights.sum(), torch.tensor(2.0 * BATCH))


@pytest.mark.parametrize("separate", [False, True])
def test_the_average_follows_the_student(separate):
    config = PretrainingStepConfig(head=HEAD, separate_heads=separate, drop_path=0.3, precision="fp32")
    module = Pretraining({"student": network(16, separate)}, config)
    start = [p.clone() for p in module.teacher.parameters()]
    (row,) = steps(module)
    assert ("gradient_norm/ibot_head" in row) == separate
    for old, new, student in zip(
        start, module.teacher.parameters(), module.student("student").parameters(), strict=True
    ):
        torch.testing.assert_close(new, 0.9 * old + 0.1 * student)
    assert not module.teacher.training
    assert module.student("student").training


def test_the_gram_loss_starts_at_its_step_with_the_teacher_of_then():
    config = PretrainingStepConfig(
        head=HEAD, drop_path=0.0, precision="fp32", losses={"gram": {"start": 2, "refresh": 100, "enlarge": 2}}
    )
    module = Pretraining({"student": network(16)}, config)
    rows = steps(module, 2)
    anchor = [p.clone() for p in module.anchor.parameters()]
    assert all("gram" not in row for row in rows)
    for kept, teacher in zip(anchor, module.teacher.backbone.parameters(), strict=True):
        assert torch.equal(kept, teacher)
    assert module(batch(), values(2))["gram"] > 0


def test_the_anchor_sees_the_crops_that_were_rendered_for_it():
    """The fault: it saw upsampled global crops, which hold nothing that the student does not see."""
    config = PretrainingStepConfig(head=HEAD, drop_path=0.0, precision="fp32", losses={"gram": {"ramp": 4}})
    module = Pretraining({"student": network(16)}, config)
    seen = batch()
    full = module(seen, values(3))["gram"]
    torch.testing.assert_close(module(seen, values(0))["gram"], full / 4)
    seen.anchor_crops = seen.anchor_crops.roll(1, 0)
    assert not torch.allclose(module(seen, values(3))["gram"], full)


@pytest.mark.parametrize(
    "losses",
    [
        {"ibot_weight": 0},
        {"ibot_weight": 0.5},
        {"koleo_weight": 0, "sigreg": {}},
        {"dino_weight": 0, "ibot_weight": 0, "koleo_weight": 0, "sigreg": {"invariance": 1.0}},
    ],
)
def test_other_weights_and_sigreg_train(losses):
    config = PretrainingStepConfig(head=HEAD, drop_path=0.0, precision="fp32", losses=losses)
    module = Pretraining({"student": network(16)}, config)
    first, *_, last = steps(module, 25)
    assert last["total"] < first["total"]
    assert (first["ibot"] == 0) == (losses.get("ibot_weight") == 0)
    assert ("sigreg" in first) == ("sigreg" in losses)
    terms = [value for key, value in first.items() if "norm" not in key and key != "total"]
    torch.testing.assert_close(torch.stack(terms).sum(), first["total"])


def test_the_anchor_is_renewed_so_often_and_no_more():
    gram = GramConfig(start=10, refresh=5, updates=2, ramp=4, weight=2.0)
    assert [done for done in range(40) if gram.renews(done)] == [10, 15, 20]
    endless = gram.model_copy(update={"updates": None})
    assert [done for done in range(31) if endless.renews(done)] == [10, 15, 20, 25, 30]
    assert [gram.weight_at(step) for step in (9, 10, 11, 13, 14, 100)] == [0.0, 0.5, 1.0, 2.0, 2.0, 2.0]
    assert GramConfig().weight_at(0) == 2.0


def test_without_a_compiler_the_blocks_run_uncompiled(monkeypatch, caplog):
    import torch._inductor.config

    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", (None, "/nowhere/c++"))
    plain = PretrainingStepConfig(head=HEAD, precision="fp32", drop_path=0.0)
    (expected,) = steps(Pretraining({"student": network(16)}, plain))
    torch.manual_seed(0)
    (actual,) = steps(Pretraining({"student": network(16)}, plain.model_copy(update={"compile": True})))
    assert "no C++ compiler" in caplog.text
    assert torch.equal(actual["total"], expected["total"])
