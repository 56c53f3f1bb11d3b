"""How exactly a step computes: in which precision, chosen by what the hardware is fast in, and whether in one order."""

from __future__ import annotations

import os

import torch
import torch.utils.deterministic

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


def set_deterministic(wanted: bool) -> None:
    """Whether PyTorch may only use algorithms that give the same bits every time; one that has none then says so."""
    if wanted:
        # Read when cuBLAS is first used: with buffers of a fixed size its products do not depend on what runs beside.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(wanted)
    # Memory that is to be written anyway need not be filled.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
