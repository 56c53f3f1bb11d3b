"""The programs that backends run, written once from a backbone.

<folder>/model.onnx             for ONNX Runtime
<folder>/model.xml, model.bin   for OpenVINO
<folder>/model.int8.onnx        for both: weights and activations in 8 bits
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dinomill.arrays import Floats
from dinomill.serving.backends.choice import Backend


def write_programs(
    backbone: Path, folder: Path, backends: Iterable[Backend], calibration: Floats, *, quietly: bool = True
) -> None:
    """Write what some backends need and is not there yet.

    Args:
        backbone: The folder of an exported backbone.
        folder: Where the programs go.
        backends: For which.
        calibration: ``[N, C, S, S]``, preprocessed images of the kind that will be served; for 8 bits alone.
        quietly: Without what the exporters say of themselves.

    Raises:
        MachineError: When a program does not repeat the model.
    """
    from dinomill.export import export
    from dinomill.export.int8 import quantise

    wanted = {backend.file for backend in backends} - {None}
    folder.mkdir(parents=True, exist_ok=True)
    whole = folder / "model.onnx"
    with _quiet(quietly):
        if {"model.onnx", "model.int8.onnx"} & wanted and not whole.is_file():
            export(backbone, "onnx", whole)
        if "model.xml" in wanted and not (folder / "model.xml").is_file():
            export(backbone, "openvino", folder / "model.xml")
        if "model.int8.onnx" in wanted and not (folder / "model.int8.onnx").is_file():
            quantise(whole, folder / "model.int8.onnx", calibration)


def _quiet(quietly: bool) -> Any:
    from contextlib import ExitStack, nullcontext

    if not quietly:
        return nullcontext()
    stack = ExitStack()
    import logging
    import warnings

    stack.enter_context(warnings.catch_warnings())
    warnings.simplefilter("ignore")
    noisy = logging.getLogger("torch.onnx._internal.exporter._registration")
    stack.callback(noisy.setLevel, noisy.level)
    noisy.setLevel(logging.ERROR)
    return stack


@torch.no_grad()
def embed_all(features: Any, images: Floats, batch_size: int = 8) -> Floats:
    """Embeddings of preprocessed images ``[N, C, S, S]`` as a backend gives them, ``[N, E]``."""
    found = []
    for start in range(0, len(images), batch_size):
        batch = torch.from_numpy(images[start : start + batch_size])
        found.append(features(batch).pooled(features.pooling).float().numpy())
    return np.concatenate(found)
