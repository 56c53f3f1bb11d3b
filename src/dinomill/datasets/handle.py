"""A catalog entry that is a stage's handle: ``<folder>/handle.json``, read into its typed model."""

from __future__ import annotations

import importlib
from collections.abc import Callable
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
        self.metadata = _with_layer(metadata, self._folder)
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

    @property
    def preview(self) -> Callable[[], Any]:
        """What Kedro-Viz draws: a plot where the result has one, else its figures. It tells them by the annotation."""
        from dinomill.datasets.preview import PlotlyPreview, TablePreview, plot, table

        if not self._exists():
            raise AttributeError("the stage has not run")  # then there is nothing to draw
        handle = self._handle.load(self.root / self._folder)
        drawn = plot(handle, self.root / self._folder)

        def as_plot() -> PlotlyPreview:
            assert drawn is not None, "chosen because there is one"
            return drawn

        def as_table() -> TablePreview:
            return table(handle)

        return as_table if drawn is None else as_plot

    def _exists(self) -> bool:
        return (self.root / self._folder / HANDLE_NAME).is_file()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._folder.as_posix(), "handle": self._handle.__name__}


def _with_layer(metadata: dict[str, Any] | None, folder: Path) -> dict[str, Any] | None:
    """What was said, and the layer that Kedro-Viz shows: the folder's, unless the catalog says another."""
    from dinomill.datasets.preview import layer_of

    layer = layer_of(folder)
    if layer is None:
        return metadata
    said = metadata or {}
    return {**said, "kedro-viz": {"layer": layer, **said.get("kedro-viz", {})}}


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
