"""What it costs to add a few images to a pool that was curated before, beside curating all of it again.

    python benchmarks/adding_images.py --pool data/01_raw/sample/pool [--images 7000] [--add 10] [--image-size 64]
    python benchmarks/adding_images.py --smoke

Some images of the pool are curated; then some more are laid beside them, ten of the first are taken away, and all are
renamed and moved to another folder; each time the whole stage runs. For every step its CPU-seconds and what it did and
took over are printed. At the end the pool is curated from nothing once more: the manifest must have the same bytes.
One process, so that CPU-seconds are all of them. The last line is JSON.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from measuring import command_line, finish

from dinomill.curation import stage
from dinomill.curation.config import CurationConfig
from dinomill.handles import DatasetHandle
from dinomill.images.listing import list_items

FOLDERS = ("scan", "quality", "embeddings", "duplicates", "selection", "curated", "work")
STEPS = ("scan_files", "check_quality", "embed_images", "find_duplicates", "select_images", "write_curated")


def configure(root: Path, image_size: int, cache: Path) -> CurationConfig:
    """The stage below a folder, as the sample has it."""
    settings: dict[str, Any] = {
        "folders": {name: root / name for name in FOLDERS} | {"cache": cache},
        "execution": {"executor": "inline"},
        "gate": {"docs": False},
        "embedding": {"embedder": {"image_size": image_size}},
    }
    return CurationConfig.model_validate(settings)


class Clock:
    """CPU-seconds of every step, and the handles that they gave."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.work: dict[str, dict[str, int]] = {}

    def watch(self, name: str, step: Callable[..., Any]) -> Callable[..., Any]:
        """The step, timed."""

        def timed(*arguments: Any) -> Any:
            start = time.process_time()
            handle = step(*arguments)
            self.seconds[name] = round(time.process_time() - start, 2)
            if work := getattr(handle, "work", None):
                self.work[name] = work
            return handle

        return timed


def curate(pool: Path, config: CurationConfig, what: str) -> tuple[DatasetHandle, dict[str, Any]]:
    """Run the stage, print a line, and return the dataset and the figures."""
    clock = Clock()
    steps = {name: getattr(stage, name) for name in STEPS}
    for name, step in steps.items():
        setattr(stage, name, clock.watch(name, step))
    try:
        dataset = stage.curate([str(pool)], None, None, config)
    finally:
        for name, step in steps.items():
            setattr(stage, name, step)
    total = round(sum(clock.seconds.values()), 2)
    figures = {"cpu_seconds": total, "steps": clock.seconds, "work": clock.work, "images": dataset.pool_images}
    print(f"{what}: {dataset.pool_images:,} images, {total:,.1f} CPU-s, {json.dumps(clock.work)}", flush=True)
    print("    " + ", ".join(f"{name} {seconds:,.1f}" for name, seconds in clock.seconds.items()), flush=True)
    return dataset, figures


def lay_out(files: list[Path], pool: Path, name: str) -> None:
    """Links to some files, in folders of a thousand."""
    for number, file in enumerate(files):
        place = pool / f"{name}{number // 1000:03d}" / f"{number:06d}{file.suffix}"
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(file, place)
        except OSError:  # another disk
            shutil.copyfile(file, place)


def smoke_pool(folder: Path) -> Path:
    """A few hundred small pictures."""
    from PIL import Image
    from sklearn.datasets import load_digits

    folder.mkdir()
    for number, digit in enumerate(load_digits().images[:60]):
        Image.fromarray((digit * 15.9).astype("uint8")).resize((32, 32)).save(folder / f"{number:03d}.png")
    return folder


def measure(source: Path, images: int, add: int, image_size: int, room: Path) -> dict[str, Any]:
    """All runs, in ``room``."""
    files = [source / item.path for item in list_items(str(source)) if not item.fault][: images + add]
    if len(files) < images + add:
        sys.exit(f"{source} has {len(files):,} files; {images + add:,} are asked for (--images, --add)")
    pool, found = room / "pool", {}
    config = configure(room / "out", image_size, room / "cache")
    lay_out(files[:images], pool, "a")
    _, found["first"] = curate(pool, config, "first")
    _, found["again"] = curate(pool, config, "again, nothing changed")
    lay_out(files[images:], pool, "b")
    added, found["added"] = curate(pool, config, f"{add} added")
    fresh, found["fresh"] = curate(pool, configure(room / "fresh", image_size, room / "none"), "the same from nothing")
    found["same_manifest"] = {"value": added.manifest_sha256 == fresh.manifest_sha256}
    for place in sorted(pool.rglob("*.*"))[:add]:
        place.unlink()
    _, found["removed"] = curate(pool, config, f"{add} removed")
    for place in sorted(pool.rglob("*.*"), reverse=True):
        moved = room / "moved" / "x" / f"{place.stem[::-1]}-{place.parent.name}{place.suffix}"
        moved.parent.mkdir(parents=True, exist_ok=True)
        place.rename(moved)
    _, found["moved"] = curate(room / "moved", config, "all renamed and moved")
    return found


def main() -> None:
    parser = command_line(__doc__, "sixty small pictures")
    parser.add_argument("--pool", type=Path, default=Path("data/01_raw/sample/pool"), help="a folder of images")
    parser.add_argument("--images", type=int, default=7_000, help="that are curated first")
    parser.add_argument("--add", type=int, default=10, help="images that are added")
    parser.add_argument("--image-size", type=int, default=64, help="pixels, of the embedder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        room = Path(name)
        if arguments.smoke:
            found = measure(smoke_pool(room / "source"), 50, 5, 32, room)
        else:
            found = measure(arguments.pool, arguments.images, arguments.add, arguments.image_size, room)
    finish(found, smoke=arguments.smoke)
    if not found["same_manifest"]["value"]:
        sys.exit("the manifest of adding is not the manifest of curating from nothing")


if __name__ == "__main__":
    main()
