"""Clusters and regression in a step: several students of other grids, accumulated batches, what is saved of them."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from dinomill.models import HeadConfig, VisionTransformer, VisionTransformerConfig
from dinomill.models.student import CropFeatures
from dinomill.training.checkpoint_state import named_tensors
from dinomill.training.config import DistillationStepConfig, OptimizerConfig
from dinomill.training.given_teacher import GivenTeacher
from dinomill.training.network import Network, Regressor
from dinomill.training.objectives import Objective
from dinomill.training.objectives.assignments import Assignments
from dinomill.training.objectives.clusters import Clusters
from dinomill.training.objectives.fitted import whiten
from dinomill.training.objectives.regression import Regression
from dinomill.training.optimizer import build_optimizer
from dinomill.training.schedules import ScheduleValues
from dinomill.training.step import accumulated_step

BATCH, DIM, WHITE, CENTRES = 4, 20, 8, 12
HEAD = HeadConfig(hidden_dim=32, bottleneck_dim=WHITE, prototypes=CENTRES)
KINDS = ["clusters", "regression"]


class Fixed(GivenTeacher):
    """Features that follow from the crops by a fixed map, on a grid of 3 x 3."""

    def __init__(self) -> None:
        super().__init__("a test", None, 28)

    def features(self, images: Tensor) -> CropFeatures:
        places = torch.nn.functional.adaptive_avg_pool2d(images, 3).flatten(2).mT  # [N, 9, 3]
        mixed = torch.tanh(places @ torch.randn(3, DIM, generator=torch.Generator().manual_seed(5)))
        return CropFeatures(mixed.mean(dim=1), mixed, (3, 3))


def backbone(dim: int, patch: int) -> VisionTransformer:
    shape = {"image_size": 28, "depth": 2, "num_heads": 2, "layerscale": 1.0}
    return VisionTransformer(VisionTransformerConfig(embed_dim=dim, patch_size=patch, **shape))


def fitted() -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(1)
    found = {}
    for part in ("classes", "patches"):
        found[f"{part}.mean"] = 0.1 * torch.randn(DIM, generator=random)
        found[f"{part}.std"] = torch.rand(DIM, generator=random) + 0.5
        found[f"{part}.matrix"] = torch.randn(DIM, WHITE, generator=random)
        found[f"{part}.centres"] = torch.nn.functional.normalize(torch.randn(CENTRES, WHITE, generator=random), dim=1)
    return found


def build(kind: str, patches: Mapping[str, int], **changes: Any) -> Objective:
    torch.manual_seed(0)
    config = DistillationStepConfig(head=HEAD, precision="fp32", losses={"koleo_weight": 0.0}, **changes)
    bodies = {name: backbone(16, patch) for name, patch in patches.items()}
    if kind == "clusters":
        networks = {name: Network(body, HEAD, separate_heads=True) for name, body in bodies.items()}
        return Clusters(networks, config, Fixed(), fitted()).train()
    regressors = {name: Regressor(body, DIM, hidden_dim=16) for name, body in bodies.items()}
    standard = {name: tensor for name, tensor in fitted().items() if name.endswith(("mean", "std"))}
    return Regression(regressors, config, Fixed(), standard).train()


def values(step: int = 0) -> ScheduleValues:
    return ScheduleValues(step, 3e-3, 3e-3, 0.04, 0.9, 0.07)


def batch(seed: int = 0) -> Any:
    random = torch.Generator().manual_seed(seed)
    return SimpleNamespace(
        global_crops=torch.randn(2 * BATCH, 3, 28, 28, generator=random),
        local_crops=torch.randn(2 * BATCH, 3, 14, 14, generator=random),
        anchor_crops=None,
        taught_classes=None,
        taught_patches=None,
    )


def train(module: Objective, steps: int) -> list[dict[str, Tensor]]:
    optimizer = build_optimizer(module, OptimizerConfig())
    how = {"clip_gradient": 3.0, "generators": [None]}
    return [accumulated_step(module, module, optimizer, [batch()], values(step), **how) for step in range(steps)]


@pytest.mark.parametrize("kind", KINDS)
def test_students_of_other_grids_learn_from_one_view(kind: str) -> None:
    module = build(kind, {"fine": 7, "coarse": 14, "finer": 7})
    assert module.grids(batch()) == [(4, 4), (2, 2)]
    view = module.teacher_view(batch())
    assert [len(part) for part in view] == [2 * BATCH, 2 * BATCH * 16, 2 * BATCH * 4]
    first, *_, last = train(module, 30)
    for name in ("fine", "coarse", "finer"):
        terms = [term for term in first if term.startswith(f"{name}/") and "norm" not in term]
        assert len([term for term in terms if last[term] < first[term]]) >= len(terms) - 1
    assert last["total"] < 0.97 * first["total"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_given_is_not_in_a_checkpoint(kind: str) -> None:
    module = build(kind, {"student": 7})
    names = named_tensors(module, build_optimizer(module, OptimizerConfig()))
    assert not [name for name in names if "frozen_teacher" in name or "centres" in name]
    assert any(name.startswith("module.students.student.backbone.") for name in names)


@pytest.mark.parametrize("kind", KINDS)
def test_micro_batches_are_taught_as_one_large_batch(kind: str) -> None:
    module = build(kind, {"student": 7})
    halves = [batch(1), batch(2)]
    targets = module.targets_of_step(halves, values())
    if kind == "regression":
        assert list(targets) == [None, None]  # nothing is judged together
        return
    whole = batch()
    whole.global_crops = torch.cat([half.global_crops for half in halves])
    (expected,) = module.assign([module.teacher_view(whole)], values())
    classes = torch.cat([target[0].dense() for target in targets])  # type: ignore[index]
    torch.testing.assert_close(classes, expected[0].dense(), atol=1e-6, rtol=1e-4)
    # In which order a crop's patches come depends on its number in the batch: they are put where they belong.
    parts = [in_place(module, half, target[1]) for half, target in zip(halves, targets, strict=True)]  # type: ignore[index]
    torch.testing.assert_close(torch.cat(parts), in_place(module, whole, expected[1]), atol=1e-6, rtol=1e-4)


def in_place(module: Objective, made: Any, targets: Any) -> Tensor:
    """Targets [2B * N, K] of patches in the order of the crops."""
    dense = targets.dense()
    return torch.empty_like(dense).index_copy_(0, module.learnt(made, (4, 4)).indices, dense)


def test_the_centres_are_the_prototypes_of_whitened_features() -> None:
    module, tensors = build("clusters", {"student": 14}), fitted()
    assert isinstance(module, Clusters)
    of_classes, of_patches = module.prototypes()
    assert torch.equal(of_classes.direction, tensors["classes.centres"])
    assert torch.equal(of_patches.direction, tensors["patches.centres"])
    assert bool((of_classes.gain == 1).all())
    seen = Fixed().features(batch().global_crops)
    view = module.teacher_view(batch())
    torch.testing.assert_close(view[0], whiten(seen.cls, tensors["classes.mean"], tensors["classes.matrix"]))
    # What the monitor calls the nearest prototype is the centre with the largest cosine.
    looked = module.look("student", batch().global_crops, "teacher")
    assert torch.equal(looked.prototype, (view[0] @ tensors["classes.centres"].T).argmax(dim=1))


def test_kept_features_take_the_place_of_the_teachers_pass() -> None:
    module = build("regression", {"student": 14})
    seen, kept = Fixed().features(batch().global_crops), batch()
    kept.taught_classes, kept.taught_patches = seen.cls.half(), seen.patches.half()
    kept.global_crops = kept.global_crops * 0  # nothing is asked of these
    for found, expected in zip(module.teacher_view(kept), module.teacher_view(batch()), strict=True):
        torch.testing.assert_close(found, expected, atol=2e-3, rtol=2e-3)


def test_a_teacher_with_heads_may_have_other_patches_than_its_students() -> None:
    torch.manual_seed(0)
    config = DistillationStepConfig(head=HEAD, precision="fp32", patch_share=0.5)
    teacher = Network(backbone(24, 14), HEAD, separate_heads=False)
    students = {name: Network(backbone(16, patch), HEAD, separate_heads=False) for name, patch in (("a", 7), ("b", 14))}
    module = Assignments(students, config, teacher).train()
    classes, fine, own = module.teacher_view(batch())
    # On its own grid the patches are what the fast way gives, which never makes the others.
    alone = Assignments({"b": Network(backbone(16, 14), HEAD, separate_heads=False)}, config, teacher)
    expected = alone.teacher_view(batch())
    torch.testing.assert_close(classes, expected[0])
    torch.testing.assert_close(own, expected[1])
    assert (len(fine), len(own)) == (2 * BATCH * 8, 2 * BATCH * 2)
    rows = train(module, 15)
    assert rows[-1]["a/ibot"] < rows[0]["a/ibot"]
