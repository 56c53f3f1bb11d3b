"""What the machine reaches in matrix products alone: the peak that a step's share is stated of."""

from __future__ import annotations

import time

import torch
from protocol import Pace, read_work

# Rows of tokens × width × hidden width, as in a step; the larger ones are for a GPU.
SHAPES = {"cpu": [(1024, 1024, 1024), (4096, 384, 1536), (2048, 2048, 2048)], "cuda": [(8192, 8192, 8192)]}
SECONDS = 0.15
PRECISIONS = {"bf16": torch.bfloat16, "fp32": torch.float32}


def rates(dtype: torch.dtype, device: str) -> dict[str, float]:
    """The best rates over the shapes: operations a second, and a CPU-second."""
    best = {"wall": 0.0, "cpu": 0.0}
    for rows, inner, columns in SHAPES[device]:
        a, b = (torch.randn(shape, device=device).to(dtype) for shape in ((rows, inner), (inner, columns)))
        torch.mm(a, b)
        count, begin = 0, now(device)
        while now(device)[0] - begin[0] < SECONDS:
            for _ in range(4 if device == "cpu" else 64):
                torch.mm(a, b)
                count += 1
        wall, cpu = (end - start for end, start in zip(now(device), begin, strict=True))
        work = 2.0 * rows * inner * columns * count
        best = {"wall": max(best["wall"], work / wall), "cpu": max(best["cpu"], work / cpu)}
    return best


def now(device: str) -> tuple[float, float]:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter(), time.process_time()


def main() -> None:
    work = read_work()
    pace = Pace(work.device)
    pace.ready()
    while True:
        pace.wait()
        pace.done(0.0, rates={name: rates(dtype, work.device) for name, dtype in PRECISIONS.items()})


if __name__ == "__main__":
    main()
