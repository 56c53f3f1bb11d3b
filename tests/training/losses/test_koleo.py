"""KoLeo's guards and groups."""

import torch

from dinomill.training.losses.koleo import koleo_loss


def test_a_single_image_has_no_loss_but_a_gradient():
    x = torch.randn(1, 8, requires_grad=True)
    loss = koleo_loss(x)
    loss.backward()
    assert loss == 0
    assert x.grad.count_nonzero() == 0


def test_groups_are_the_weighted_mean_of_their_losses():
    x = torch.randn(10, 8, generator=torch.Generator().manual_seed(0))
    grouped = koleo_loss(x, group_size=4)
    parts = [koleo_loss(part) * len(part) / 10 for part in x.split(4)]
    torch.testing.assert_close(grouped, torch.stack(parts).sum())


def test_an_island_of_fp32_under_autocast():
    x = torch.randn(6, 16, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        inside = koleo_loss(x)
    assert inside.dtype is torch.float32
    torch.testing.assert_close(inside, koleo_loss(x))
