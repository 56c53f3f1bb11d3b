"""The explicit attention kernel against the fused one: values and gradients, and when which is taken."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dinomill.models import attention
from dinomill.models.attention import CPU_EXPLICIT_TOKENS, attend


def outputs(kernel: object, dtype: torch.dtype, length: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, length, 8, generator=generator).to(dtype).requires_grad_() for _ in range(3))
    result: Tensor = kernel(q, k, v)  # type: ignore[operator]
    result.float().square().sum().backward()
    return [result.detach().float(), *(tensor.grad.float() for tensor in (q, k, v))]


@pytest.mark.parametrize("length", [1, 5, 50])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 4e-2)])
def test_explicit_equals_fused(length: int, dtype: torch.dtype, tolerance: float) -> None:
    explicit = outputs(attention._ExplicitAttention.apply, dtype, length)
    fused = outputs(torch.nn.functional.scaled_dot_product_attention, torch.float32, length)
    for one, other in zip(explicit, fused, strict=True):
        torch.testing.assert_close(one, other, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize(
    ("dtype", "length", "explicit"),
    [
        (torch.bfloat16, 65, True),
        (torch.bfloat16, CPU_EXPLICIT_TOKENS + 1, False),
        (torch.float32, 65, False),
    ],
)
def test_kernel_is_chosen_by_length_and_precision(dtype: torch.dtype, length: int, explicit: bool) -> None:
    q = torch.randn(1, 1, length, 8, dtype=dtype, requires_grad=True)
    taken = attend(q, q, q).grad_fn
    assert taken is not None
    assert ("Explicit" in taken.name()) == explicit
