"""How near two networks are: the same weights, or how far their parameters and their embeddings lie apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dinomill.storage.hashing import hash_file

_WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Nearness:
    """Two exports of a network, held against each other.

    Args:
        same: Whether the tensors are equal, bit for bit.
        apart: Length of the difference of all parameters, as a share of the length of the first.
        worst: Name of the tensor that differs most by that measure, and by how much.
        cosine: Mean cosine of their embeddings of the same images, and the smallest; None where shapes differ.
        images: How many images.
    """

    same: bool
    apart: float = 0.0
    worst: tuple[str, float] = ("", 0.0)
    cosine: tuple[float, float] | None = None
    images: int = 0

    def __str__(self) -> str:
        if self.same:
            return "the same weights, bit for bit"
        if self.cosine is None:
            return "another network: its tensors have other names or shapes"
        mean, least = self.cosine
        return (
            f"not the same: the cosine of embeddings is {mean:.6f} in the mean and {least:.6f} at worst, on "
            f"{self.images} images; parameters differ by {self.apart:.2g} of their length, most in {self.worst[0]} "
            f"({self.worst[1]:.2g})"
        )


def nearness(registered: Path, made: Path, images: Sequence[bytes]) -> Nearness:
    """Compare two exports.

    Args:
        registered: The folder of the registered one.
        made: The folder of the one that was made again.
        images: Encoded images to embed; none are looked at where the weights are equal.
    """
    import numpy as np
    import torch
    from safetensors.torch import load_file

    if hash_file(registered / _WEIGHTS) == hash_file(made / _WEIGHTS):
        return Nearness(same=True)
    one, other = load_file(registered / _WEIGHTS), load_file(made / _WEIGHTS)
    if {name: tensor.shape for name, tensor in one.items()} != {name: tensor.shape for name, tensor in other.items()}:
        return Nearness(same=False)
    if all(torch.equal(one[name], other[name]) for name in one):
        return Nearness(same=True)  # only what is written beside the tensors differs
    gaps = {name: float((one[name].double() - other[name].double()).norm()) for name in one}
    lengths = {name: float(one[name].double().norm()) for name in one}
    worst = max(gaps, key=lambda name: gaps[name] / max(lengths[name], 1e-12))
    from dinomill.serving.predictor import Predictor

    first, second = (Predictor(folder)(list(images)).astype(np.float64) for folder in (registered, made))
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    cosines = (first * second).sum(axis=1) / np.maximum(norms, 1e-12)
    return Nearness(
        same=False,
        apart=float(np.linalg.norm(list(gaps.values())) / max(float(np.linalg.norm(list(lengths.values()))), 1e-12)),
        worst=(worst, gaps[worst] / max(lengths[worst], 1e-12)),
        cosine=(float(cosines.mean()), float(cosines.min())),
        images=len(images),
    )
