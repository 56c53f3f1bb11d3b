"""An export may not take the place of the weights that it is made from."""

from __future__ import annotations

from pathlib import Path

from dinomill.errors import InputError
from dinomill.features.base import Description
from dinomill.storage.writable import printable


def require_apart(description: Description, output: Path, *, folder: bool) -> None:
    """Refuse a target that would be written over what is read, also by another path to it.

    Args:
        description: Of the weights.
        output: The file or the folder that will be written.
        folder: Whether it is a folder.

    Raises:
        InputError: When it is the weights, one of their files, or a folder that holds them or lies in theirs.
    """
    target, place = output.resolve(), description.place.resolve()
    beside = {target}
    if target.suffix == ".xml":
        beside.add(target.with_suffix(".bin"))
    elif target.suffix == ".onnx":
        beside.add(target.with_name(f"{target.name}.data"))
    nested = folder and (place.is_relative_to(target) or target.is_relative_to(place))
    if nested or beside & {place, *(path.resolve() for path in description.paths)}:
        raise InputError(
            f"{printable(output)} would be written over the weights that are exported.",
            found=f"weights in {printable(description.place)}",
            expected="a place apart from them",
            action="name another file" if not folder else "name another folder, neither in theirs nor around them",
        )
