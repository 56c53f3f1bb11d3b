"""What the hardware is fast in."""

from __future__ import annotations

import torch


def has_fast_bf16(device: torch.device) -> bool:
    """Whether a device has instructions for bf16 matrix products."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("amx_bf16", "avx512_bf16"))
