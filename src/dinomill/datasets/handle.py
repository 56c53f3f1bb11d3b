"""A catalog entry that is a stage's handle: ``<folder>/handle.json``, read into its typed model."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from kedro.io import AbstractDataset

from dinomill.errors import ConfigError
from dinomill.handles import HANDLE_NAME, Handle


class HandleDataset(AbstractDataset[Handle, Handle | None]):
    """The typed handle of a folder that a stage wrote.

    Args:
        folder: The stage's folder, relative to the project's root.
        handle: The dotted name of the handle's class: ``dinomill.handles.DatasetHandle``.
        optional: Whether a stage may run before there is any: it is then given None.
        metadata: Anything; read by Kedro's plugins only.

    Raises:
        ConfigError: When ``handle`` names no subclass of ``dinomill.handles.Handle``.
    """

    def __init__(
        self, folder: str, handle: str, optional: bool = False, metadata: dict[str, Any] | None = None
    ) -> None:
        self._optional = optional
        self._folder = Path(folder)
        self._handle = _handle_class(handle)
        self.metadata = metadata
        # Where the project begins, which whoever knows it says; the working directory of stages and commands.
        self.root = Path()

    @property
    def folder(self) -> Path:
        """The folder that the handle describes: DVC's out."""
        return self._folder

    def load(self) -> Handle | None:
        """Read the handle; None where there is none and need not be any.

        Its paths are relative to the project's root. Asked from elsewhere (a notebook), it has absolute ones.

        Raises:
            InputError: When its stage has not run, or another version wrote it.
        """
        if self._optional and not self._exists():
            return None
        handle = self._handle.load(self.root / self._folder)
        return handle if self._at_root else handle.below(self.root)

    def save(self, data: Handle) -> None:
        """Write the handle beside the data that it describes, unless the stage did so itself."""
        assert isinstance(data, self._handle), (
            f"{self._folder} holds {self._handle.__name__}, not {type(data).__name__}"
        )
        assert data.folder == self._folder, f"the catalog says {self._folder}, the stage wrote {data.folder}"
        data.save(self.root / self._folder)

    @property
    def _at_root(self) -> bool:
        return self.root.absolute() == Path.cwd()

    def _exists(self) -> bool:
        return (self.root / self._folder / HANDLE_NAME).is_file()

    def _describe(self) -> dict[str, Any]:
        return {"folder": self._folder.as_posix(), "handle": self._handle.__name__}


def _handle_class(name: str) -> type[Handle]:
    module, _, attribute = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError):
        found = None
    if not (isinstance(found, type) and issubclass(found, Handle)):
        raise ConfigError(
            f"The catalog names {name!r} as a handle, and there is no such class.",
            expected="the dotted name of a subclass of dinomill.handles.Handle",
            action="correct `handle:` in conf/base/<stage>/catalog.yml",
        )
    return found
