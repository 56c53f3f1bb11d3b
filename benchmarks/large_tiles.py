"""One picture of 20,000 × 20,000 pixels, curated as tiles of 224: memory of the whole process tree, and seconds.

    python benchmarks/large_tiles.py [--layout tiled|jpeg|strips|plain] [--extent 20000] [--side 224] [--workers 2]

The picture is made of blocks of scikit-image's photographs, turned and with other gain, three in ten of them blank, and
written piece by piece: 1.2 GB of pixels that are never in memory at once. Layouts: ``tiled`` (256 × 256, deflate),
``jpeg`` (the same, JPEG), ``strips`` (16 rows each, deflate), ``plain`` (one uncompressed strip).

Memory is looked at ten times a second: the sum over all processes of what each holds for itself, and its share of what
they hold in common (PSS). The goal is 1 GB. ``windows`` are reads alone: pixels a CPU-second in reading order and at
random. The last line is JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from measuring import command_line, finish

from dinomill.arrays import Pixels

LAYOUTS: dict[str, dict[str, Any]] = {
    "tiled": {"tile": (256, 256), "compression": "deflate"},
    "jpeg": {"tile": (256, 256), "compression": "jpeg", "compressionargs": {"level": 85}},
    "strips": {"rowsperstrip": 16, "compression": "deflate"},
    "plain": {},
}
BLOCK = 512


def rows_of_blocks(extent: int) -> Iterator[Pixels]:
    """The picture from top to bottom, ``[up to 512, extent, 3]`` at a time."""
    from skimage import data

    photographs = [
        getattr(data, name)() for name in ("astronaut", "coffee", "chelsea", "rocket", "immunohistochemistry")
    ]
    generator = np.random.default_rng(0)
    for top in range(0, extent, BLOCK):
        height = min(BLOCK, extent - top)
        row = np.full((height, extent, 3), 242, dtype=np.uint8)
        for left in range(0, extent, BLOCK):
            if generator.random() < 0.3:
                continue
            photograph = photographs[int(generator.integers(len(photographs)))]
            height_, width_ = photograph.shape[:2]
            y, x = int(generator.integers(height_ - 256)), int(generator.integers(width_ - 256))
            piece = np.kron(photograph[y : y + 256, x : x + 256], np.ones((2, 2, 1), dtype=np.uint8))
            piece = np.rot90(piece, int(generator.integers(4)))[:, :: int(generator.choice([-1, 1]))]
            lit = np.clip(piece * generator.uniform(0.7, 1.2), 0, 255).astype(np.uint8)
            row[:, left : left + BLOCK] = lit[:height, : extent - left]
        yield row


def make(path: Path, extent: int, layout: str) -> None:
    """Write the picture without ever holding it."""
    import tifffile

    def pieces() -> Iterator[Pixels | bytes]:
        for row in rows_of_blocks(extent):
            if layout == "strips":  # tifffile takes strips coded already, and no others one by one
                yield from (zlib.compress(row[top : top + 16].tobytes(), 6) for top in range(0, len(row), 16))
                continue
            for top in range(0, len(row), 256):
                for left in range(0, extent, 256):
                    yield np.ascontiguousarray(row[top : top + 256, left : left + 256])

    if layout == "plain":
        shape = (extent, extent, 3)
        stored = tifffile.memmap(path, shape=shape, dtype=np.uint8, photometric="rgb", bigtiff=True)
        for number, row in enumerate(rows_of_blocks(extent)):
            stored[number * BLOCK : number * BLOCK + len(row)] = row
        stored.flush()
        return
    settings: dict[str, Any] = {"shape": (extent, extent, 3), "dtype": np.uint8, "photometric": "rgb", "bigtiff": True}
    made: Any = pieces()  # tifffile's annotation knows either coded or uncoded pieces
    tifffile.imwrite(path, made, **settings, **LAYOUTS[layout])


def windows(path: Path, side: int, *, in_order: bool, seconds: float) -> float:
    """Millions of pixels a CPU-second."""
    from dinomill.images.listing import list_items, read_item
    from dinomill.images.tiles import TileConfig

    items = list_items(str(path), TileConfig(side=side))
    if not in_order:
        items = [items[number] for number in np.random.default_rng(0).permutation(len(items))]
    began, read = time.process_time(), 0
    for item in items:
        read_item(str(path), item)
        read += 1
        if time.process_time() - began > seconds:
            break
    return read * side * side / 1e6 / max(time.process_time() - began, 1e-9)


def curate(path: Path, room: Path, side: int, workers: int) -> None:
    """What the child process does: all of curation."""
    from dinomill.curation.config import CurationConfig
    from dinomill.curation.stage import curate as run

    names = ("scan", "quality", "embeddings", "duplicates", "selection", "curated", "work")
    settings = {
        "folders": {name: room / name for name in names},
        "execution": {"executor": "processes" if workers else "inline", "workers": workers},
        "gate": {"docs": False},
        "embedding": {"embedder": {"image_size": 64}},
    }
    run([{"path": str(path), "tiles": {"side": side}}], None, None, CurationConfig.model_validate(settings))


def measured(command: list[str]) -> dict[str, float]:
    """Run a command; peak of its tree's memory in MB, CPU-seconds, seconds."""
    began, peak, cpu = time.monotonic(), 0.0, {}
    with subprocess.Popen(command) as child:
        tree = psutil.Process(child.pid)
        while child.poll() is None:
            held = 0
            with contextlib.suppress(psutil.NoSuchProcess):
                for process in (tree, *tree.children(recursive=True)):
                    with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                        held += process.memory_full_info().pss
                        times = process.cpu_times()
                        cpu[process.pid] = times.user + times.system
            peak = max(peak, held / 2**20)
            time.sleep(0.1)
        if child.returncode:
            raise SystemExit(f"curation ended with {child.returncode}")
    return {
        "peak_mb": round(peak),
        "cpu_seconds": round(sum(cpu.values()), 1),
        "seconds": round(time.monotonic() - began, 1),
    }


def main() -> None:
    parser = command_line(__doc__, "a picture of 1,000 pixels")
    parser.add_argument("--layout", choices=LAYOUTS, default="tiled")
    parser.add_argument("--extent", type=int, default=20_000, help="pixels a side of the picture")
    parser.add_argument("--side", type=int, default=224, help="pixels a side of a tile")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where the picture is made, and kept for the next time")
    parser.add_argument("--curate", nargs=2, type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.curate:
        picture, room = given.curate
        curate(picture, room, given.side, given.workers)
        return
    extent, workers = (1_000, 0) if given.smoke else (given.extent, given.workers)
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        path, room = folder / f"{given.layout}-{extent}.tif", Path(scratch) / "room"
        if not path.exists():
            unfinished = path.with_suffix(".tmp")
            make(unfinished, extent, given.layout)
            unfinished.replace(path)
        print(f"{path.name}: {path.stat().st_size / 1e6:,.0f} MB on disk, {extent**2 * 3 / 1e6:,.0f} MB of pixels")
        speeds = [
            windows(path, given.side, in_order=order, seconds=0.2 if given.smoke else 10) for order in (True, False)
        ]
        print(f"windows of {given.side}: {speeds[0]:.0f} megapixels a CPU-second in order, {speeds[1]:.0f} at random")
        options = ["--side", str(given.side), "--workers", str(workers)]
        found = measured([sys.executable, __file__, "--curate", str(path), str(room), *options])
        fates = Counter(_fates(room / "curated" / "manifest.parquet"))
        print(", ".join(f"{count:,} {fate}" for fate, count in fates.most_common()))
        print(f"curation: {found['peak_mb']:,.0f} MB at most, {found['cpu_seconds']} CPU-s, {found['seconds']} s")
        result = {"layout": given.layout, "extent": extent, "windows": [round(one, 1) for one in speeds], **found}
        finish(result | {"tiles": fates.total(), "fates": dict(fates)}, smoke=given.smoke)


def _fates(manifest: Path) -> list[str]:
    import pyarrow.parquet as pq

    fates: list[str] = pq.read_table(manifest, columns=["fate"])["fate"].to_pylist()
    return fates


if __name__ == "__main__":
    main()
