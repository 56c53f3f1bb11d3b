"""Labelled images to batches: decoded, changed where a view asks for it, preprocessed; one ahead of the networks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dinomill.arrays import Floats
from dinomill.errors import InputError
from dinomill.evaluation.wanted import View
from dinomill.images.decode import DecodeError, decode_image
from dinomill.images.file_bytes import read_file
from dinomill.images.preprocess import PreprocessingConfig, preprocess, preprocess_bytes


def batches(
    paths: Sequence[Path], preprocessing: PreprocessingConfig, batch_size: int, view: View | None = None
) -> Iterator[Tensor]:
    """Preprocessed batches ``[B, C, S, S]``; the next one is decoded while the networks run.

    Raises:
        InputError: When an image cannot be read or decoded; it is named.
    """

    def read(row: int) -> Floats:
        return _read(paths[row], preprocessing, view, row)

    groups = [range(start, min(start + batch_size, len(paths))) for start in range(0, len(paths), batch_size)]
    with ThreadPoolExecutor(4) as decoders, ThreadPoolExecutor(1) as ahead:

        def assemble(group: range) -> Tensor:
            return torch.from_numpy(np.stack(list(decoders.map(read, group))))

        following = ahead.submit(assemble, groups[0])
        for group in [*groups[1:], None]:
            batch = following.result()
            if group is not None:
                following = ahead.submit(assemble, group)
            yield batch


def _read(path: Path, preprocessing: PreprocessingConfig, view: View | None, row: int) -> Floats:
    action = "remove or replace that file: a score on silently dropped images would not be comparable"
    try:
        if view is None:
            return preprocess_bytes(path.read_bytes(), preprocessing)
        channels, value_range = preprocessing.channels, preprocessing.value_range
        # Decoded whole: a view is a change of the image, not of a smaller one.
        pixels = decode_image(read_file(path), channels=channels, value_range=value_range)
        return preprocess(view.change(pixels, row), preprocessing)
    except DecodeError as error:
        found = f"{error.reason}: {error.detail}"
    except OSError as error:
        found = error.strerror or str(error)
    raise InputError(f"The labelled image {path} cannot be used.", found=found, action=action)
