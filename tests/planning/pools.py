"""Pools and machines to plan for, without files: what a survey would have found."""

from __future__ import annotations

from typing import Any

from dinomill.planning.choices import Start, Wish
from dinomill.planning.machine import Gpu, Machine
from dinomill.planning.pool import Pool, Spread


def spread(median: float, *, low: float | None = None, high: float | None = None) -> Spread:
    low, high = low or median, high or median
    return Spread(smallest=low, low=low, quarter=(low + median) / 2, median=median, high=high, largest=high)


def pool(files: int, side: float, **changes: Any) -> Pool:
    values: dict[str, Any] = {
        "locations": ("pool",),
        "files": files,
        "bytes": files * 4000,
        "sampled": min(files, 384),
        "short_side": spread(side),
        "long_side": spread(side),
        "aspect": spread(1.0),
        "pixels_an_image": side * side,
        "coloured": 0.0,
        "alpha": 0.0,
        "bits": {8: min(files, 384)},
        "formats": {"PNG": min(files, 384)},
        "alignment": 0.05,
        "alikeness": 0.6,
        "crowd": 0.5,
        "contrast": 0.2,
        "seconds_an_image": 0.002,
        "seconds": 1.0,
    }
    return Pool(**values | changes)


def machine(cores: int = 2, *, gpus: int = 0, memory: int = 24 * 2**30, **changes: Any) -> Machine:
    values: dict[str, Any] = {
        "cores": cores,
        "processor": "a processor",
        "memory_bytes": memory,
        "free_memory_bytes": memory,
        "disk_free_bytes": 2**37,
        "instructions": ("avx2", "avx512", "avx512_bf16", "amx"),
        "gpus": tuple(Gpu(name="G", memory_bytes=80 * 10**9, bf16=True) for _ in range(gpus)),
    }
    return Machine(**values | changes)


SAMPLE = pool(13_956, 28, alignment=0.33, crowd=0.31)
COLOUR = pool(
    4_959,
    117,
    coloured=0.79,
    short_side=spread(117, low=60, high=620),
    long_side=spread(153, low=60, high=956),
    pixels_an_image=60_000,
)
SOLAR = pool(1_744, 300, alignment=0.56, crowd=0.22)
TEN = pool(10, 300, coloured=1.0)
DEEP = pool(900, 512, bits={16: 384}, pixels_an_image=2**18)
ICONS = pool(40_000, 64, coloured=1.0)
CRAWL = pool(3_000_000, 480, coloured=0.97)
POOLS = {
    "sample": SAMPLE,
    "colour": COLOUR,
    "solar": SOLAR,
    "ten": TEN,
    "deep": DEEP,
    "icons": ICONS,
    "crawl": CRAWL,
}

VITS14 = Start(
    address="weights/vits14.pth",
    family="dinov2",
    image_size=518,
    patch_size=14,
    in_channels=3,
    embed_dim=384,
    depth=12,
    parameters=22_056_576,
)


def wish(**changes: Any) -> Wish:
    return Wish(**{"name": "mine", "pool": ("pool",), "hours": 1.0} | changes)


LABELLED: dict[str, Any] = {"labelled": "labelled", "bank": 2000, "queries": 1000, "classes": 10}
