"""The picture of a run of hostile.py: requests answered, and what each process keeps in memory."""

from __future__ import annotations

import csv
from itertools import pairwise
from pathlib import Path


def draw(output: Path) -> Path:
    """``<output>/hostile.png`` from ``<output>/memory.csv``."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    with (output / "memory.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    seconds = [float(row["seconds"]) for row in rows]
    names = [name for name in (rows[0] if rows else {}) if name.endswith("_mb")]
    figure, (rate, memory) = plt.subplots(2, 1, figsize=(9, 6), sharex=True, height_ratios=(1, 2))
    done = [int(row["requests"]) for row in rows]
    rate.plot(seconds[1:], [after - before for before, after in pairwise(done)], lw=0.8, color="#4c6a92")
    rate.set_ylabel("requests a second")
    rate.set_ylim(bottom=0)
    rate.set_title(f"{done[-1] if done else 0:,} requests, some of them hostile")
    workers = [name for name in names if name.startswith("worker_")]
    for name in names:
        label = f"worker {workers.index(name) + 1}" if name in workers else {"java_mb": "Java"}.get(name, "gateway")
        memory.plot(seconds, [float(row[name] or "nan") for row in rows], lw=1.2, label=label)
    memory.set_ylim(bottom=0)
    memory.set_ylabel("resident memory, MB")
    memory.set_xlabel("seconds")
    memory.legend(frameon=False, ncols=3, loc="lower right")
    for axes in (rate, memory):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    figure.tight_layout()
    path = output / "hostile.png"
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path
