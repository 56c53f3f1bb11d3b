"""A program of torch.export (.pt2) as features: one of our exports, or any with one image input."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from dinomill.errors import InputError
from dinomill.features.base import Description, Features, Tokens
from dinomill.features.graph import Graph
from dinomill.features.licence import LICENCE, ORIGIN
from dinomill.features.programs import OUTPUTS, PATCH, POOLING, describe_program, tokens
from dinomill.images.preprocess import SECTION, PreprocessingConfig
from dinomill.models.made_from import MADE_FROM

# The files beside the graph, of our exports.
_TOLD = {f"{SECTION}.json": SECTION, **{f"{key}.txt": key for key in (POOLING, PATCH, LICENCE, ORIGIN, MADE_FROM)}}


class ProgramFeatures(Features):
    """A graph, run by torch, in the precision that it was exported in.

    Args:
        description: What it is.
        graph: Its operations and weights.
    """

    def __init__(self, description: Description, graph: Graph) -> None:
        super().__init__(description)
        self._graph = graph
        # Their outputs have no names in the file, but an order.
        self._outputs = OUTPUTS if f"{SECTION}.json" in graph.extra else graph.outputs

    @property
    def grid(self) -> int:
        """Places a side; 1 for a program that gives one vector an image."""
        patches = self(_zeros(self.preprocessing, self.device)).patches
        return 1 if patches is None else math.isqrt(patches.shape[1])

    def __call__(self, batch: Tensor) -> Tokens:
        """Tokens of ``[B, C, S, S]``."""
        with torch.autocast(self.device.type, enabled=False):
            found = self._graph(batch.to(self.device).float())
        seen = tokens(self._outputs, [output.float().cpu().numpy() for output in found])
        patches = None if seen.patches is None else seen.patches.to(self.device)
        return Tokens(seen.cls.to(self.device), seen.mean_patch.to(self.device), patches)

    def to(self, device: torch.device | str) -> Self:
        """Move the program's weights."""
        self.device = torch.device(device)
        self._graph.to(self.device)
        return self


def open_pt2(
    address: str, place: Path, preprocessing: PreprocessingConfig | None, image_size: int | None = None
) -> ProgramFeatures:
    """Read the program.

    Raises:
        InputError: When it cannot be read, is not run, or does not take images.
    """
    graph = Graph.read(place)
    images = [graph.sizes[name] for name, weight in graph.inputs.items() if weight is None]
    if len(images) != 1 or len(images[0]) != 4:
        raise InputError(
            f"{place} does not take images.",
            found=", ".join(str(shape) for shape in images) or "no input",
            expected="one input [batch, channels, height, width]",
        )
    if images[0][0] is not None:
        raise InputError(
            f"{place} takes batches of {images[0][0]} alone.",
            expected="a batch of any size",
            action="export it with dynamic_shapes={…: {0: torch.export.Dim('batch')}}",
        )
    first = graph.sizes[graph.outputs[0]]
    description = describe_program(
        address,
        place,
        family="torch.export",
        told={key: graph.extra[name] for name, key in _TOLD.items() if name in graph.extra},
        input_shape=images[0],
        dim=(first[1] if len(first) == 4 else first[-1]) or 0,
        parameters=sum(graph.tensors[name].numel() for name in graph.inputs.values() if name is not None),
        paths=(place,),
        preprocessing=preprocessing,
        image_size=image_size,
    )
    found = ProgramFeatures(description, graph)
    if not description.dim:  # not said by the file: one image tells
        seen = found(_zeros(description.preprocessing, found.device))
        found.description = replace(description, dim=seen.cls.shape[1])
    return found


def _zeros(settings: PreprocessingConfig, device: torch.device) -> Tensor:
    return torch.zeros(1, settings.channels, settings.image_size, settings.image_size, device=device)
