"""The labelled images by which packaging judges what a backend costs; curated ones: ``images.sampled``."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dinomill.errors import InputError

if TYPE_CHECKING:
    from dinomill.images.preprocess import PreprocessingConfig
    from dinomill.serving.backends.select import Labelled

log = logging.getLogger(__name__)

_A_CLASS = 4  # images at least, so that a nearest neighbour can be right


def labelled_images(labelled: str, split: str, count: int, settings: PreprocessingConfig) -> Labelled | None:
    """Labelled images, preprocessed: evenly from all classes, or from some classes where there are very many.

    Args:
        labelled: The labelled set.
        split: Of it; one that models are not scored on.
        count: Images at most.
        settings: Of the network.

    Returns:
        None where the set lies elsewhere than on this machine, or has no two classes of several images.

    Raises:
        InputError: When the split is missing, or an image of it cannot be used.
    """
    from dinomill.images.labelled import find_labelled
    from dinomill.images.preprocess import preprocess_bytes
    from dinomill.serving.backends.select import Labelled

    if "://" in labelled:
        log.warning("%s is not on this machine: the backends' loss of kNN accuracy is not measured.", labelled)
        return None
    found = find_labelled(Path(labelled), split)
    members = [np.flatnonzero(found.labels == one).tolist() for one in range(len(found.classes))]
    classes = [rows for rows in members if len(rows) > 1]
    if len(classes) < 2:
        return None
    classes = _evenly(classes, max(2, count // _A_CLASS))
    picked = [row for rows in classes for row in _evenly(rows, max(2, count // len(classes)))]
    images = []
    for path in (found.paths[row] for row in picked):
        try:
            images.append(preprocess_bytes(path.read_bytes(), settings))
        except (InputError, OSError) as error:
            raise InputError(
                f"The labelled image {path} cannot be used.", found=str(error), action="remove or replace that file"
            ) from None
    return Labelled(np.stack(images), [found.classes[found.labels[row]] for row in picked])


def _evenly(items: list[Any], count: int) -> list[Any]:
    """At most so many of them, from the first to the last."""
    if len(items) <= count:
        return items
    return [items[place] for place in np.linspace(0, len(items) - 1, count).round().astype(int)]
