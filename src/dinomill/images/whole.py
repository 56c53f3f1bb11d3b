"""Whether a curated dataset is there to be trained on, as far as that is cheap to know before anything is started."""

from __future__ import annotations

import numpy as np

from dinomill.errors import DinomillError, InputError
from dinomill.handles import DatasetHandle
from dinomill.images.decode import decode_image
from dinomill.images.loader_config import LoaderConfig
from dinomill.images.manifest import KeptImages, read_kept
from dinomill.images.shards import Location, open_shards

_LOOKED_AT = 16  # images that are read, spread over the dataset
_ACTION = "run `dvc pull`, or the curation stage again"


def check_whole(dataset: DatasetHandle, loader: LoaderConfig) -> None:
    """Look at manifest and shards, and read a few images; what a training would find in its first step, or later.

    Args:
        dataset: The dataset.
        loader: Where its shards are, and how many images may be unreadable.

    Raises:
        InputError: When a shard is missing, or more images than may be are not to be had.
        StorageError: When S3 does not answer or refuses.
    """
    images = read_kept(dataset.manifest)
    if not len(images):
        raise InputError(f"The dataset {dataset.folder} keeps no image.", action="curate with weaker filters")
    if int(images.shards.max()) >= len(dataset.shards):
        raise InputError(
            f"The manifest {dataset.manifest} places images in a shard that the dataset does not have.",
            found=f"shard number {int(images.shards.max())}",
            expected=f"at most {len(dataset.shards) - 1}",
            action=_ACTION,
        )
    source = open_shards(dataset, loader)
    if loader.shards is None:
        _check_sizes(dataset, images, loader)
    reasons = []
    looked_at = np.unique(np.linspace(0, len(images) - 1, _LOOKED_AT).astype(int))
    for row in looked_at:
        place = Location(int(images.shards[row]), int(images.offsets[row]), int(images.lengths[row]))
        try:
            decode_image(source.read(place), channels=dataset.channels, value_range=dataset.value_range)
        except (InputError, OSError) as error:
            said = error.problem if isinstance(error, DinomillError) else str(error)
            reasons.append(f"{images.paths[int(row)]}: {said}")
    # A few may be unreadable, and a share of these few says little of all of them; most of them says enough.
    if 2 * len(reasons) > len(looked_at) and loader.max_unreadable < 0.5:
        raise InputError(
            f"Most images of the dataset {dataset.folder} cannot be read from its shards.",
            found=f"{len(reasons)} of {len(looked_at)} that were looked at; {reasons[0]}",
            expected=f"at most {loader.max_unreadable:g} of them (loader.max_unreadable)",
            action=_ACTION,
        )


def _check_sizes(dataset: DatasetHandle, images: KeptImages, loader: LoaderConfig) -> None:
    sizes = np.array([path.stat().st_size for path in dataset.shards])
    lost = images.offsets + images.lengths > sizes[images.shards]
    if lost.sum() <= int(loader.max_unreadable * len(images)):
        return
    cut = np.unique(images.shards[lost])
    raise InputError(
        f"{lost.sum():,} of {len(images):,} images lie beyond the end of their shards: these were cut or replaced.",
        found=", ".join(f"{dataset.shards[number]} with {sizes[number]:,} bytes" for number in cut[:3]),
        expected=f"at most {int(loader.max_unreadable * len(images)):,} (loader.max_unreadable)",
        action=_ACTION,
    )
