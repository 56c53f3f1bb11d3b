"""One whole optimisation step against the official code: losses, gradients, norms, and parameters after it."""

from types import SimpleNamespace

import pytest
import torch

from dinomill.models import HeadConfig, VisionTransformer, VisionTransformerConfig
from dinomill.training.config import OptimizerConfig, PretrainingStepConfig
from dinomill.training.network import Network
from dinomill.training.objectives.pretraining import Pretraining
from dinomill.training.optimizer import build_optimizer, clip_gradients, set_schedules
from dinomill.training.schedules import ScheduleValues

HEAD = HeadConfig(hidden_dim=64, bottleneck_dim=32, prototypes=128)
BACKBONE = VisionTransformerConfig(image_size=70, embed_dim=48, depth=3, num_heads=3)


@pytest.fixture
def reference(numeric_reference):
    return {name: torch.from_numpy(array.copy()) for name, array in numeric_reference("ssl_step").items()}


def part(reference, prefix):
    return {name.removeprefix(prefix): tensor for name, tensor in reference.items() if name.startswith(prefix)}


def build(reference, **changes):
    student = Network(VisionTransformer(BACKBONE), HEAD, separate_heads=True)
    student.load_state_dict(part(reference, "student0/"))
    config = PretrainingStepConfig(head=HEAD, separate_heads=True, drop_path=0.0, **{"precision": "fp32", **changes})
    module = Pretraining({"student": student}, config)
    module.teacher.load_state_dict(part(reference, "teacher0/"))
    return module.train()


def read_batch(reference):
    return SimpleNamespace(
        global_crops=reference["batch/collated_global_crops"],
        local_crops=reference["batch/collated_local_crops"],
        masks=reference["batch/collated_masks"],
        mask_indices=reference["batch/mask_indices_list"],
        mask_weights=reference["batch/masks_weight"],
    )


def values_of(reference):
    return ScheduleValues(
        step=0,
        learning_rate=float(reference["hp_lr"]),
        last_layer_learning_rate=float(reference["hp_lr"]),
        weight_decay=float(reference["hp_wd"]),
        momentum=float(reference["hp_mom"]),
        teacher_temperature=float(reference["hp_teacher_temp"]),
    )


def compare(actual, expected, tolerance):
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(actual[name], tensor, atol=tolerance, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize(
    "changes",
    [{}, {"recomputed_blocks": 1.0}, {"losses": {"keep_mib": 0}}],
    ids=["plain", "recomputed", "logits_twice"],
)
def test_a_whole_step(reference, changes):
    module, batch, values = build(reference, **changes), read_batch(reference), values_of(reference)
    student = module.student("student")
    optimizer = build_optimizer(module, OptimizerConfig())

    ((dino, ibot),) = module.assign([module.teacher_view(batch)], values)
    torch.testing.assert_close(dino.dense().view(2, 4, -1).flip(0), reference["teacher_dino"], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(ibot.dense(), reference["teacher_ibot"], atol=1e-5, rtol=1e-4)

    losses = module(batch, values)
    compare({name: loss.detach() for name, loss in losses.items()}, part(reference, "loss/"), 1e-5)

    losses["total"].backward()
    gradients = {name: parameter.grad.clone() for name, parameter in student.named_parameters()}
    compare(gradients, part(reference, "grad/"), 2e-5)
    norms = clip_gradients(module, OptimizerConfig().clip_gradient)
    compare({name.rpartition("/")[2]: norm for name, norm in norms.items()}, part(reference, "gradnorm/"), 1e-4)

    set_schedules(optimizer, values)
    optimizer.step()
    module.update_averages(values)
    # AdamW's first step is lr · g / (|g| + 1e-8): where the gradient itself is rounding error, so is the step's size,
    # and all that can be asked is that it is a step.
    sure = {name: gradient.abs() > 1e-7 for name, gradient in part(reference, "grad/").items()}
    assert torch.cat([known.flatten() for known in sure.values()]).float().mean() > 0.998
    for network, key in ((student, "student1/"), (module.teacher, "teacher1/")):
        actual, expected = network.state_dict(), part(reference, key)
        unsure = {name: (tensor - expected[name])[~sure[name]].abs() for name, tensor in actual.items()}
        assert max(float(rest.max()) for rest in unsure.values() if rest.numel()) < 2 * values.learning_rate
        compare(
            {name: torch.where(sure[name], tensor, expected[name]) for name, tensor in actual.items()}, expected, 5e-6
        )
