"""What every form of an export has in common: how it is written, how it is read again, and what it says of itself."""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, cast, get_args

from dinomill.arrays import Floats
from dinomill.errors import MachineError
from dinomill.export.parity import Compared, Outputs, Run, compare
from dinomill.models.backbones import Backbone
from dinomill.models.beside import note_of

Made = TypeVar("Made")
Format = Literal["pth", "safetensors", "pt2", "onnx", "onnx-int8", "openvino", "huggingface", "timm"]
FORMATS: tuple[Format, ...] = get_args(Format)

__all__ = ["FORMATS", "Export", "Form", "Format", "Outputs", "Run", "Subject", "require"]


@dataclass(frozen=True)
class Export:
    """An exported model and how closely it repeats the original: on random images, in 8 bits on those given.

    Args:
        path: The file, or the folder.
        format: Which form.
        bytes: Of all its files.
        max_difference: The largest absolute difference of any output; in 8 bits of the embeddings.
        cosine: The smallest cosine of any token with the original's; in 8 bits of any embedding.
        checked_with: What read and ran it for that.
    """

    path: Path
    format: Format
    bytes: int
    max_difference: float
    cosine: float
    checked_with: str


@dataclass(frozen=True)
class Subject:
    """What is exported.

    Args:
        model: The network, in evaluation mode.
        side: Pixels of the images that it is used with.
        told: What the export says of itself, by key; the preprocessing as JSON.
        calibration: Preprocessed images ``[N, C, S, S]``, for forms that compute in 8 bits.
    """

    model: Backbone
    side: int
    told: Mapping[str, str]
    calibration: Floats | None = None
    _made: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def once(self, name: str, make: Callable[[], Made]) -> Made:
        """What several steps of a form need; the first one makes it.

        Args:
            name: Of it.
            make: Makes it.
        """
        if name not in self._made:
            self._made[name] = make()
        return cast("Made", self._made[name])


class Form(ABC):
    """One form of an export."""

    suffix: ClassVar[str]  # of the main file; empty for a folder
    reader: ClassVar[str] = "dinomill"  # what runs it for the check
    least_cosine: ClassVar[float | None] = None  # what it promises; None: the model's numbers, within the tolerance
    needs_images: ClassVar[bool] = False  # whether it is calibrated

    def require_fit(self, model: Backbone) -> None:
        """Refuse a model that this form cannot hold.

        Raises:
            InputError: Says what it cannot hold.
            MachineError: When packages are missing.
        """
        del model

    @abstractmethod
    def write(self, subject: Subject, path: Path) -> None:
        """Write the main file, or the folder, and whatever lies beside it."""

    @abstractmethod
    def read(self, path: Path, subject: Subject) -> Run:
        """What it computes, run by whom it is for.

        Args:
            path: As written.
            subject: For what a form leaves to its note.
        """

    def any_size(self, subject: Subject) -> bool:
        """Whether it repeats the model at other sizes of image than its own."""
        del subject
        return True

    def compare(self, subject: Subject, run: Run) -> Compared:
        """How closely it repeats the model."""
        return compare(subject.model, run, subject.side, any_size=self.any_size(subject))

    def note(self, path: Path) -> Path:
        """Where its note lies."""
        return note_of(path)

    def as_written(self, subject: Subject) -> Mapping[str, Any]:
        """The configuration of the tensors in it."""
        return subject.model.config.model_dump(mode="json")

    def says(self, subject: Subject) -> Mapping[str, Any]:
        """What its note says besides."""
        del subject
        return {}


def require(*modules: str, extra: str) -> None:
    """Refuse an export whose packages are not installed.

    Raises:
        MachineError: Names them and the extra that brings them.
    """
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise MachineError(
            f"This export needs {', '.join(missing)}.", action=f"install the extra: pip install 'dinomill[{extra}]'"
        )
