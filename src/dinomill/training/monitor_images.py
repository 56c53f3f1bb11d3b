"""The images that the monitor looks at: some of the dataset and some labelled ones, preprocessed, in memory."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dinomill.arrays import Pixels
from dinomill.handles import DatasetHandle
from dinomill.images.decode import decode_image
from dinomill.images.labelled import read_labelled
from dinomill.images.loader_config import LoaderConfig
from dinomill.images.manifest import read_kept
from dinomill.images.preprocess import PreprocessingConfig, preprocess
from dinomill.images.shards import Location, open_shards
from dinomill.training.monitor import Samples

# The split that evaluation uses as its bank; its queries, the split `test`, are never looked at while training.
_SPLIT = "train"


def dataset_samples(
    dataset: DatasetHandle, preprocessing: PreprocessingConfig, count: int, *, loader: LoaderConfig, seed: int
) -> Samples:
    """Some images of the dataset, the same ones for a seed.

    Args:
        dataset: The curated dataset.
        preprocessing: Size, mean and standard deviation.
        count: How many; fewer when it has fewer.
        loader: Where the shards lie.
        seed: Which ones.
    """
    kept, reader = read_kept(dataset.manifest), open_shards(dataset, loader)
    rows = np.sort(np.random.default_rng(seed).permutation(len(kept))[:count])
    places = [Location(*(int(v[row]) for v in (kept.shards, kept.offsets, kept.lengths))) for row in rows]
    reader.prepare(places)
    decoded = (
        decode_image(reader.read(place), channels=dataset.channels, min_side=preprocessing.resize) for place in places
    )
    return Samples(_stack(decoded, preprocessing))


def labelled_samples(folder: Path, preprocessing: PreprocessingConfig, count: int, *, seed: int) -> Samples:
    """Some labelled images in random order.

    Args:
        folder: ``<split>/<class>/<image>``; the split ``train`` is read.
        preprocessing: Size, channels, mean and standard deviation.
        count: At most this many, evenly from all classes.
        seed: Their order.

    Raises:
        InputError: When the folder is not so laid out, or an image cannot be read.
    """
    labelled = read_labelled(
        folder, _SPLIT, channels=preprocessing.channels, limit=count, min_side=preprocessing.resize
    )
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(labelled)))
    return Samples(_stack(labelled.images, preprocessing)[order], torch.from_numpy(labelled.labels)[order])


def _stack(images: Iterable[Pixels], preprocessing: PreprocessingConfig) -> Tensor:
    """``[N, C, S, S]`` float32."""
    return torch.from_numpy(np.stack([preprocess(image, preprocessing) for image in images]))
