"""Class scores of embeddings: a linear probe as a file.

probe.safetensors    weight [C, E] and bias [C]; in the header the names of the classes and what is known of the probe
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dinomill.arrays import Floats
from dinomill.errors import InputError
from dinomill.storage.tensor_file import read_tensors, write_tensors
from dinomill.storage.writable import printable

PROBE = "probe.safetensors"


@dataclass(frozen=True)
class Probe:
    """A linear classifier on embeddings.

    Args:
        weight: ``[C, E]``.
        bias: ``[C]``.
        classes: Their names.
        normalised: Whether it was trained on embeddings of length 1; else on those that the network gives, whatever a
            server makes of their length.
        about: What is known of it: ``accuracy`` on ``scored_images``, how many ``learnt_images`` it is fitted on.
    """

    weight: Floats
    bias: Floats
    classes: tuple[str, ...]
    normalised: bool = False
    about: Mapping[str, float] = field(default_factory=dict)

    def __call__(self, embedding: Floats) -> dict[str, float]:
        """The share of each class for an embedding ``[E]``, the likeliest first; they sum to 1."""
        vector = embedding / max(float(np.linalg.norm(embedding)), 1e-12) if self.normalised else embedding
        logits = (self.weight @ vector + self.bias).astype(np.float64)
        shares = np.exp(logits - logits.max())
        shares /= shares.sum()
        order = np.argsort(-shares, kind="stable")
        return {self.classes[number]: round(float(shares[number]), 6) for number in order}

    @classmethod
    def read(cls, path: Path, width: int | None) -> Probe:
        """A probe beside the weights.

        Args:
            path: The file.
            width: Of the embeddings that it is for; None: any.

        Raises:
            InputError: When it is none, or one for embeddings of another width; when weights are no numbers, or several
                classes have one name.
        """
        tensors, told = read_tensors(path)
        try:
            weight, bias = tensors["weight"], tensors["bias"]
            classes = tuple(str(name) for name in json.loads(told["classes"]))
            about = {str(name): float(value) for name, value in json.loads(told.get("about", "{}")).items()}
        except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(f"{path} is no linear probe.", found=f"{type(error).__name__}: {error}") from None
        wide = weight.shape[-1] if width is None and weight.ndim == 2 else width
        if weight.shape != (len(classes), wide) or bias.shape != (len(classes),):
            raise InputError(
                f"{path} does not fit the network.",
                found=f"weights {list(weight.shape)} for {len(classes)} classes",
                expected=f"[{len(classes)}, {wide or 'width of an embedding'}]",
            )
        if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
            raise InputError(
                f"{path} holds weights that are NaN or infinite.",
                expected="finite numbers",
                action="fit the probe again, or copy the file again",
            )
        if twice := sorted(name for name, count in Counter(classes).items() if count > 1):
            raise InputError(
                f"{path} has several classes of one name: their scores would be taken for each other's.",
                found=printable(", ".join(twice[:5])) + (", …" if len(twice) > 5 else ""),
                expected="a name of its own for each class",
                action="give them other names, and fit the probe again",
            )
        normalised = told.get("normalised") == "true"
        return cls(weight.astype(np.float32), bias.astype(np.float32), classes, normalised, about)

    def save(self, path: Path) -> None:
        """Write it."""
        told = {"classes": json.dumps(self.classes), "normalised": str(self.normalised).lower()}
        told |= {"about": json.dumps(dict(self.about))} if self.about else {}
        write_tensors(path, {"weight": self.weight, "bias": self.bias}, told)
