"""The projection head against a stored output, and its pieces against the whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from dinomill.models import HeadConfig, ProjectionHead


def test_stored_output(numeric_reference: Callable[[str], Mapping[str, np.ndarray[Any, Any]]]) -> None:
    reference = numeric_reference("losses")
    head = ProjectionHead(48, HeadConfig(hidden_dim=64, bottleneck_dim=32, prototypes=64))
    prefix = "head/sd/"
    head.load_state_dict({k[len(prefix) :]: torch.from_numpy(reference[k]) for k in reference if k.startswith(prefix)})
    x = torch.from_numpy(reference["head/x"])
    torch.testing.assert_close(head(x), torch.from_numpy(reference["head/out"]), atol=1e-5, rtol=0)
    by_hand = head.bottleneck(x) @ head.last_layer.weight().T
    torch.testing.assert_close(by_hand, head(x), atol=1e-6, rtol=0)


def test_fresh_prototypes_have_length_one_and_learn() -> None:
    torch.manual_seed(0)
    head = ProjectionHead(16, HeadConfig(hidden_dim=32, bottleneck_dim=8, prototypes=12))
    torch.testing.assert_close(head.last_layer.weight().norm(dim=1), torch.ones(12))
    head(torch.randn(4, 16)).square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in head.named_parameters()}
    assert all(g is not None and g.abs().max() > 0 for g in gradients.values())
    # A direction's gradient is orthogonal to it: its length is weight_g's business.
    v, g = head.last_layer.weight_v, gradients["last_layer.weight_v"]
    assert g is not None
    assert (v * g).sum(dim=1).abs().max() < 1e-4


def test_bottleneck_is_a_unit_vector_in_half_precision_too() -> None:
    head = ProjectionHead(16, HeadConfig(hidden_dim=32, bottleneck_dim=8, prototypes=12))
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        z = head.to(dtype).bottleneck(torch.randn(5, 16, dtype=dtype))
        assert z.dtype == dtype
        torch.testing.assert_close(z.float().norm(dim=-1), torch.ones(5), atol=1e-2, rtol=0)
