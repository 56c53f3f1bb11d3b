"""What the hardware is fast in."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def has_fast_bf16(device: torch.device) -> bool:
    """Whether a device has instructions for bf16 matrix products."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("amx_bf16", "avx512_bf16"))


def arithmetic(device: torch.device) -> dict[str, str | int]:
    """On what sums depend in their last bits: library, instructions, and among how many threads they are split."""
    if device.type == "cuda":
        processor = torch.cuda.get_device_name(device)
    else:
        fast = " with bf16" if has_fast_bf16(device) else ""
        processor = f"{torch.backends.cpu.get_cpu_capability()}{fast}"
    return {"torch": torch.__version__, "processor": processor, "threads": torch.get_num_threads()}


def autocast(device: torch.device, dtype: torch.dtype = torch.float32) -> AbstractContextManager[object]:
    """Matrix products in a precision, whatever was asked for around them; in fp32 that is the factors' own."""
    if device.type == "meta":  # where nothing is computed and autocast is not known
        return nullcontext()
    if dtype == torch.float32:
        return torch.autocast(device.type, enabled=False)
    return torch.autocast(device.type, dtype)
