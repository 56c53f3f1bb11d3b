"""The export that is registered: that it is the one which was measured, and what of it serving needs."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dinomill.errors import InputError
from dinomill.handles import ModelHandle
from dinomill.storage.hashing import hash_file

_SERVED = ("config.json", "model.safetensors")

# A stage does not know in which environment it runs.
REPRO = "`dvc repro {0}`, in an environment `dvc repro conf/NAME/dvc.yaml:{0}`"


def check_export(model: ModelHandle) -> None:
    """Refuse weights that are not those which were trained and measured.

    Raises:
        InputError: When they are missing or differ from the handle's hash.
    """
    weights = model.folder / "model.safetensors"
    if not weights.is_file():
        raise InputError(
            f"There is no {weights}.",
            expected=f"the weights of {model.name}",
            action="run the stage that writes them again: " + REPRO.format("distillation") + "; or `dvc pull`",
        )
    found = hash_file(weights)
    if found != model.weights_sha256:
        raise InputError(
            f"{weights} is not the network that was evaluated.",
            found=f"sha256 {found}",
            expected=f"sha256 {model.weights_sha256}, as its handle says",
            action="measure what shall be registered: " + REPRO.format("evaluation"),
        )


@contextmanager
def served_parts(export: Path) -> Iterator[Path]:
    """A folder with what serving needs of an export: the backbone and its settings, no heads and no history."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, export.name)
        folder.mkdir()
        for name in _SERVED:
            shutil.copyfile(export / name, folder / name)
        yield folder
