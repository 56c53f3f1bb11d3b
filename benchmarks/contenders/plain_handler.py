"""The handler that one would write for TorchServe without this project: Pillow, a loop over requests, PyTorch as it is.

It lies in an archive beside an exported backbone; the project gives it the network and nothing else.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import dinomill


class PlainHandler:
    """Decodes, resizes, stacks and embeds; no limits, no care for the other requests of a batch."""

    def initialize(self, context: Any) -> None:
        """Load the network."""
        folder = Path(context.system_properties["model_dir"])
        torch.set_num_threads(1)
        self.model = dinomill.load(folder)
        told = json.loads((folder / "config.json").read_text())["preprocessing"]
        self.resize, self.side = told["resize"], told["image_size"]
        self.mean, self.std = (torch.tensor(told[key])[:, None, None] for key in ("mean", "std"))

    def handle(self, data: list[dict[str, Any]], _: Any) -> list[dict[str, Any]]:
        """Embed a batch."""
        batch = torch.stack([self.read(row.get("body") or row["data"]) for row in data])
        with torch.inference_mode():
            return [{"embedding": vector.tolist()} for vector in self.model(batch)]

    def read(self, body: bytes) -> torch.Tensor:
        """Shorter side to `resize`, the middle of it, normalised."""
        image = Image.open(io.BytesIO(body)).convert("RGB")
        scale = self.resize / min(image.size)
        width, height = (max(round(side * scale), self.resize) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        left, top = (width - self.side) // 2, (height - self.side) // 2
        image = image.crop((left, top, left + self.side, top + self.side))
        pixels = torch.from_numpy(np.array(image, np.float32) / 255).permute(2, 0, 1)
        return (pixels - self.mean) / self.std
