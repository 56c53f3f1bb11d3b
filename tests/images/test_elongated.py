"""Images of 1 × N and N × 1 pixels: memory goes with their pixels, not with the square of their longer side."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dinomill.images.batch_recipe import BatchRecipe
from dinomill.images.batches import BatchMaker
from dinomill.images.crop_plan import MultiCropConfig
from dinomill.images.manifest import read_kept
from dinomill.images.masking import MaskingConfig
from dinomill.images.sampler import Sampler
from dinomill.images.shards import ShardReader
from tests.images.conftest import write_dataset

_LOOK = """
import io, resource, sys
import numpy as np
from PIL import Image
from dinomill.curation.page.thumbnails import data_uri
from dinomill.curation.scan.preflight import PreflightConfig, look_at
from dinomill.images.decode import decode_image
from dinomill.images.reduced import reduce_to, reduced_size
from dinomill.reporting.pictures import data_uri as shown

def look(shape, kind):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)).save(buffer, kind)
    look_at(buffer.getvalue(), PreflightConfig(min_side=1, max_aspect=1e6))
    pixels = decode_image(buffer.getvalue(), min_side=224)
    assert pixels.shape == (*shape, 3)
    data_uri(pixels), shown(pixels, 128), reduce_to(pixels, reduced_size(shape[1], shape[0], 896))

for kind in ("PNG", "JPEG", "TIFF"):
    look((64, 64), kind)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for shape in ((1, 65_500), (65_500, 1), (3, 20_000), (20_000, 2)):
    for kind in ("PNG", "JPEG", "TIFF"):
        look(shape, kind)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_looking_at_them_takes_little_memory() -> None:
    done = subprocess.run([sys.executable, "-c", _LOOK], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 60, f"{done.stdout} MB more than for small images"


@pytest.mark.parametrize("batched", [False, True])
def test_a_training_batch_of_them(tmp_path: Path, batched: bool) -> None:
    generator = np.random.default_rng(0)
    shapes = ((2, 900), (900, 2), (4, 700), (64, 64))
    images = [generator.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]
    handle = write_dataset(tmp_path, images)
    recipe = BatchRecipe(
        crops=MultiCropConfig(global_size=32, local_size=16, local_crops=2),
        masking=MaskingConfig(),
        sampler=Sampler(images=4, batch=4, seed=0),
        grid=4,
        channels=3,
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
    )
    maker = BatchMaker(
        recipe, read_kept(handle.manifest), ShardReader(handle.shards), batched=batched, cache_bytes=1 << 20
    )
    batch = maker.make(0)
    assert batch.global_crops.shape == (8, 3, 32, 32)
    assert bool(batch.global_crops.isfinite().all())
