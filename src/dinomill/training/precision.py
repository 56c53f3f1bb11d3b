"""In which precision a step computes, chosen by what the hardware is fast in, and whether it can be compiled."""

from __future__ import annotations

import torch

from dinomill.models.hardware import has_fast_bf16
from dinomill.training.config import Precision


def compute_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """The precision that a step computes in on a device.

    On a CPU with AMX bf16 products are about ten times as fast as fp32 ones, with AVX512-BF16 about four times; without
    either they are emulated, and slower.
    """
    if precision is Precision.AUTO:
        return torch.bfloat16 if has_fast_bf16(device) else torch.float32
    return {Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}.get(precision, torch.float32)


def can_compile() -> bool:
    """Whether torch finds the compiler that its generated code needs."""
    # The generated code is C++ on a CPU; on a GPU Triton builds its launchers with a compiler too.
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return False
    return True
