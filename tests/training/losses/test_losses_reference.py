"""Losses, centering and gradients against arrays computed with the official code."""

import numpy as np
import pytest
import torch

from dinomill.training.centering import Centering, Targets, sinkhorn_knopp
from dinomill.training.config import CenteringConfig, CenteringKind
from dinomill.training.losses.cross_entropy import CrossEntropyOptions
from dinomill.training.losses.dino import denominator, dino_losses
from dinomill.training.losses.ibot import ibot_loss
from dinomill.training.losses.koleo import koleo_loss, nearest_neighbours
from dinomill.training.losses.prototypes import Prototypes

OPTIONS = CrossEntropyOptions()


@pytest.fixture
def losses(numeric_reference):
    return {name: torch.from_numpy(np.atleast_1d(array)) for name, array in numeric_reference("losses").items()}


def identity(count: int) -> Prototypes:
    """Prototypes that make logits of features that are logits already."""
    return Prototypes(torch.eye(count), torch.ones(count, 1))


def close(actual, expected, tolerance=1e-5):
    torch.testing.assert_close(actual.reshape(expected.shape), expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("temperature", ["0.04", "0.07"])
def test_sinkhorn_knopp(losses, temperature):
    targets = sinkhorn_knopp(losses["dino/teacher1"], identity(64), temperature=float(temperature))
    close(targets.dense(), losses[f"dino/sinkhorn1_T{temperature}"])


def test_sinkhorn_knopp_of_masked_patches(losses):
    targets = sinkhorn_knopp(losses["ibot/teacher1"], identity(64), temperature=0.07)
    close(targets.dense(), losses["ibot/sinkhorn1_T0.07"])


@pytest.mark.parametrize("part", ["dino", "ibot"])
def test_softmax_centering_and_its_centre(losses, part):
    second = "0.04" if part == "dino" else "0.07"
    centering = Centering(CenteringConfig(kind=CenteringKind.SOFTMAX), 64)
    for step, temperature in ((1, "0.07"), (2, second)):
        targets = centering(
            losses[f"{part}/teacher{step}"], identity(64), temperature=float(temperature), dtype=torch.float32
        )
        close(targets.dense(), losses[f"{part}/softmax_center{step}_T{temperature}"])
        if f"{part}/center_after{step}" in losses:
            close(centering.center, losses[f"{part}/center_after{step}"].flatten())


def test_dino_losses_and_gradients(losses):
    # The reference holds the raw terms: the local one summed over all pairs, the global one a mean over crops whose
    # targets were swapped before; ours carry 1/denominator, and the global one a factor 2.
    globals_, local = (losses[f"dino/student_{kind}"].clone().requires_grad_() for kind in ("global", "local"))
    targets, batch, n_local = losses["dino/sinkhorn1_T0.07"], 4, 4
    scale = denominator(n_local)
    result = dino_losses(
        torch.cat([globals_, local]),
        identity(64),
        Targets.from_dense(targets.roll(batch, 0)),
        batch=batch,
        options=OPTIONS,
    )
    close(result.globals * scale / 2, losses["dino/loss_global_raw"])
    close(torch.autograd.grad(result.globals * scale / 2, globals_, retain_graph=True)[0], losses["dino/grad_global"])
    local_targets = Targets.from_dense(targets)
    result = dino_losses(torch.cat([globals_, local]), identity(64), local_targets, batch=batch, options=OPTIONS)
    close(result.local * scale, losses["dino/loss_local_raw"])
    close(torch.autograd.grad(result.local * scale, local)[0], losses["dino/grad_local"])


@pytest.mark.parametrize("keep_bytes", [0, 2**30])
def test_ibot_loss_and_gradient(losses, keep_bytes):
    student = losses["ibot/student"].clone().requires_grad_()
    loss = ibot_loss(
        student,
        identity(64),
        Targets.from_dense(losses["ibot/sinkhorn1_T0.07"]),
        losses["ibot/masks_weight"],
        images=len(losses["ibot/masks"]),
        options=CrossEntropyOptions(keep_bytes=keep_bytes),
    )
    close(loss, losses["ibot/forward_masked"])
    close(torch.autograd.grad(loss, student)[0], losses["ibot/grad"])


def test_ibot_loss_with_full_masks_of_tokens(losses):
    masks = losses["ibot/masks"]
    weights = (1 / masks.sum(1, keepdim=True)).expand_as(masks)[masks]
    loss = ibot_loss(
        losses["ibot/full_student"][masks],
        identity(64),
        Targets.from_dense(losses["ibot/full_teacher"][masks]),
        weights,
        images=len(masks),
        options=OPTIONS,
    )
    close(loss, losses["ibot/forward_full"])


@pytest.mark.parametrize("case", ["b8", "b2"])
def test_koleo_loss_neighbours_and_gradient(losses, case):
    x = losses[f"koleo/{case}/x"].clone().requires_grad_()
    loss = koleo_loss(x)
    close(loss, losses[f"koleo/{case}/loss"])
    close(torch.autograd.grad(loss, x)[0], losses[f"koleo/{case}/grad"])
    unit = torch.nn.functional.normalize(x.detach(), dim=1)
    assert torch.equal(nearest_neighbours(unit), losses[f"koleo/{case}/nn_index"])


def test_koleo_counts_duplicates_without_their_gradient(losses):
    x = losses["koleo/dup/x"].clone().requires_grad_()
    loss = koleo_loss(x)
    close(loss, losses["koleo/dup/loss"])
    assert torch.autograd.grad(loss, x)[0].abs().max() < 10
