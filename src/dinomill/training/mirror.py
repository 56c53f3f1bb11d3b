"""A copy of the checkpoints under an ``s3://`` prefix: written after each, fetched where the folder has no whole one.

<prefix>/step_00000400/part_00000.safetensors …   as in the folder
<prefix>/step_00000400/meta.json                  written last: without it the others do not count
<prefix>/best.json
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from dinomill.errors import StorageError
from dinomill.storage.s3 import delete_object, download_file, list_objects, upload_file
from dinomill.training.checkpoint_files import META_NAME
from dinomill.training.checkpoint_shelf import BEST_NAME, Shelf, step_of

log = logging.getLogger(__name__)


class Mirror:
    """What stays in a folder stays under a prefix.

    Args:
        prefix: ``s3://bucket/some/prefix``, of this run alone.
        shelf: The folder.
    """

    def __init__(self, prefix: str, shelf: Shelf) -> None:
        self.prefix = prefix.rstrip("/")
        self._shelf = shelf

    def follow(self) -> None:
        """Copy what is new, remove what is gone. A server that is away is said; the next checkpoint tries again."""
        try:
            there = self.steps()
            here = self._shelf.steps()
            for step in here:
                if step not in there:
                    self._upload(self._shelf.path(step))
            if (self._shelf.folder / BEST_NAME).is_file():
                upload_file(self._shelf.folder / BEST_NAME, f"{self.prefix}/{BEST_NAME}")
            # Others than those of this folder are an earlier machine's, and older.
            for step in there:
                if step not in here and step < max(here, default=0):
                    self._remove(self._shelf.path(step).name)
        except StorageError as error:
            log.warning("The checkpoints are not copied to %s now:\n%s", self.prefix, error)

    def fetch(self, step: int) -> None:
        """Fetch a checkpoint into the folder, in the place of a damaged one of the same step.

        Raises:
            StorageError: When the server does not answer or refuses.
        """
        name = self._shelf.path(step).name
        what = "No checkpoint that is needed is whole" if self._shelf.steps() else "There is no checkpoint"
        log.warning("%s in %s: fetching %s from %s.", what, self._shelf.folder, name, self.prefix)
        temporary = self._shelf.folder / f".{name}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        for entry in list_objects(f"{self.prefix}/{name}"):
            download_file(f"{self.prefix}/{name}/{entry.path}", temporary / entry.path)
        self._shelf.put(temporary, step, None)

    def steps(self) -> list[int]:
        """The steps of the complete checkpoints there, oldest first.

        Raises:
            StorageError: When the server does not answer or refuses.
        """
        ends = [Path(entry.path) for entry in list_objects(self.prefix)]
        found = (step_of(path.parent.name) for path in ends if path.name == META_NAME)
        return sorted(step for step in found if step is not None)

    def _upload(self, folder: Path) -> None:
        for path in sorted(folder.iterdir(), key=lambda path: path.name == META_NAME):
            upload_file(path, f"{self.prefix}/{folder.name}/{path.name}")

    def _remove(self, name: str) -> None:
        # Its meta.json first: what is left of it does not count.
        entries = sorted(list_objects(f"{self.prefix}/{name}"), key=lambda entry: entry.path != META_NAME)
        for entry in entries:
            delete_object(f"{self.prefix}/{name}/{entry.path}")
