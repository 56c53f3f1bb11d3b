"""LightlyTrain's side of ``../data_loading.py``: its DINOv2 transform, timed in an environment of its own.

LightlyTrain is under the AGPL: dinomill never imports it. Run by ``data_loading.py --peer-python``, it takes a folder
of JPEGs as its argument and prints, for each line on stdin, the CPU-milliseconds an image of one round, as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import torch


def without_torchvisions_operators() -> None:
    """Let torchvision be imported beside a torch for which it has no compiled operators; the transform needs none."""
    register = torch.library.register_fake

    def tolerant(name: Any, *rest: Any, **options: Any) -> Any:
        if str(name).startswith("torchvision::"):
            return lambda function: function
        return register(name, *rest, **options)

    torch.library.register_fake = tolerant


def main() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    without_torchvisions_operators()
    import numpy as np
    from lightly_train._methods.dinov2.dinov2_transform import DINOv2ViTTransform, DINOv2ViTTransformArgs
    from PIL import Image

    arguments = DINOv2ViTTransformArgs()
    transform = DINOv2ViTTransform(arguments)
    files = sorted(Path(sys.argv[1]).iterdir())
    print(json.dumps({"ready": True}), flush=True)
    for _ in sys.stdin:
        start = time.process_time()
        for file in files:
            with file.open("rb") as content:
                views = transform({"image": np.array(Image.open(content).convert("RGB"))})
        spent = time.process_time() - start
        shapes = [tuple(view["image"].shape) for view in views]
        assert shapes == [(3, 224, 224)] * 2 + [(3, 98, 98)] * 8, shapes
        print(json.dumps({"cpu_ms": spent / len(files) * 1e3}), flush=True)


if __name__ == "__main__":
    main()
