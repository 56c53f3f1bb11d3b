"""The forms for PyTorch: official state dict, safetensors, and torch.export's program."""

from __future__ import annotations

from pathlib import Path

import torch

from dinomill.errors import InputError
from dinomill.export.base import Form, Run, Subject
from dinomill.export.program import Program, least_patches, trace
from dinomill.images.preprocess import SECTION
from dinomill.models import convnext_names
from dinomill.models.backbones import Backbone
from dinomill.models.files import read_file
from dinomill.models.loading import load
from dinomill.models.made_from import MADE_FROM, add_record
from dinomill.models.prefixes import find_backbone
from dinomill.models.vision_transformer import VisionTransformer
from dinomill.models.weights import from_tensors, write_safetensors


class Pth(Form):
    """A state dict with the family's official names, weights only."""

    suffix = ".pth"

    def require_fit(self, model: Backbone) -> None:
        """Refuse what official names alone would not say: other code would read it as another model."""
        config = model.config
        known = {"position": "learned", "norm_eps": 1e-6, "cls_norm": False, "local_cls_norm": False}
        stated = {name: getattr(config, name, value) for name, value in known.items()}
        other = [f"{name} {value}" for name, value in stated.items() if value != known[name]]
        if getattr(config, "qkv_bias", None) == "query_value":
            other.append("keys without biases")
        if other:
            raise InputError(
                "The official .pth form cannot hold this model.",
                found=", ".join(other).replace("position rope", "rotary positions"),
                action="export to safetensors, which carries the configuration",
            )

    def write(self, subject: Subject, path: Path) -> None:
        """Write it; where it comes from is a record of the archive, for a state dict holds nothing but tensors."""
        tensors = subject.model.state_dict()
        vit = isinstance(subject.model, VisionTransformer)
        torch.save(tensors if vit else convnext_names.official_names(tensors), path)
        add_record(path, subject.told[MADE_FROM])

    def read(self, path: Path, subject: Subject) -> Run:
        """Read it by its names; what they cannot say is taken from the model, as the note says it."""
        model = subject.model
        tensors = find_backbone(read_file(path).tensors, str(path))
        if not isinstance(model, VisionTransformer):
            tensors = convnext_names.recognise(tensors, None, str(path)).tensors
        return Program(from_tensors(model.config, tensors, where=str(path)))


class Safetensors(Form):
    """The same with the configuration and the description in its header."""

    suffix = ".safetensors"

    def write(self, subject: Subject, path: Path) -> None:
        """Write it."""
        write_safetensors(path, subject.model, subject.told)

    def read(self, path: Path, _: Subject) -> Run:
        """Read it."""
        return Program(load(path))


class Pt2(Form):
    """A program of torch.export, with the description as extra files."""

    suffix = ".pt2"
    reader = "torch"

    def write(self, subject: Subject, path: Path) -> None:
        """Trace and write it.

        Raises:
            InputError: When its images make fewer rows of patches than a program can have.
        """
        least = least_patches(subject.model) * subject.model.patch_size
        if subject.side < least:
            raise InputError(
                "A ConvNeXt whose map has one row cannot be exported as pt2.",
                found=f"images of {subject.side} pixels, a stride of {subject.model.patch_size}",
                expected=f"images of at least {least} pixels",
                action="export it as onnx or openvino",
            )
        files = {f"{key}.{'json' if key == SECTION else 'txt'}": text for key, text in subject.told.items()}
        torch.export.save(trace(subject.model), path, extra_files=files)

    def read(self, path: Path, _: Subject) -> Run:
        """Read it with torch's own reader: it was written here a moment ago."""
        module = torch.export.load(path).module()
        return lambda images: module(images)
