"""What could not be written because the store was away: kept in files, and written by `dinomill tracking sync`.

    data/mlflow/spool/                     of the project; DINOMILL_SPOOL names another folder
      <run>/journal.jsonl                  first where the run belongs, then an operation a line, in their order
      <run>/files/<n>/…                    copies of its artifacts
      <run>/done                           how many lines the store has already
      <run>.lock                           held by who writes there, or forgets the run
      imported.json                        runs that began here, and what the store calls them

A run that was begun without its store has an id that begins with ``spooled-``; one that lost it later keeps its own.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from dinomill.layers.project import kept_project, project_above
from dinomill.storage.atomic import storage_errors, write_text
from dinomill.storage.lock import waited_for
from dinomill.tracking.invocation import Invocation

FOLDER = "DINOMILL_SPOOL"
PREFIX = "spooled-"
_IMPORTED = "imported.json"
_JOURNAL = "journal.jsonl"


def spool_folder() -> Path:
    """Where the working directory's project keeps what waits."""
    if said := os.environ.get(FOLDER):
        return Path(said).absolute()
    here = Path.cwd()
    return kept_project(project_above(here) or here) / "data" / "mlflow" / "spool"


def is_spooled(run_id: str) -> bool:
    """Whether a run was begun without its store."""
    return run_id.startswith(PREFIX)


class Spool:
    """What waits of one run.

    Args:
        run_id: Of the run.
        folder: Where all that waits is kept; None: the project's.
    """

    def __init__(self, run_id: str, folder: Path | None = None) -> None:
        self.run_id = run_id
        self.folder = (folder or spool_folder()) / run_id

    @classmethod
    def begin(
        cls,
        uri: str,
        experiment: str,
        name: str,
        tags: Mapping[str, str],
        invocation: Invocation | None,
        artifact_root: str | None = None,
    ) -> Spool:
        """Begin a run that its store does not know yet.

        Args:
            uri: Of the store.
            experiment: Its name.
            name: Of the run.
            tags: Of the run.
            invocation: The start of the pipeline that it belongs to.
            artifact_root: Where its experiment keeps files, should it be new.
        """
        made = cls(f"{PREFIX}{uuid4().hex}")
        head: dict[str, Any] = {"uri": uri, "experiment": experiment, "name": name, "tags": dict(tags)}
        head["artifact_root"] = artifact_root
        head["started"] = int(time.time() * 1000)
        if invocation is not None:
            described = invocation.described()
            head |= {"invocation": {"key": invocation.key, "name": invocation.name}}
            head["invocation"] |= {"tags": described.tags, "files": described.files}
        with made._alone():
            made._append({"begin": head})
        return made

    @property
    def journal(self) -> Path:
        """The file of its operations."""
        return self.folder / _JOURNAL

    def keep(self, uri: str, operation: str, values: Mapping[str, Any]) -> None:
        """Keep an operation; of artifacts a copy, since the files may be replaced.

        Args:
            uri: Of the store that it is meant for.
            operation: Of `operations.OPERATIONS`.
            values: Its values.
        """
        with self._alone():
            if not self.journal.exists() or not self.journal.stat().st_size:
                self._append({"begin": {"uri": uri}})
            kept = dict(values)
            if operation == "artifacts":
                kept["path"] = str(self._copied(Path(kept["path"])).relative_to(self.folder))
            if operation == "end":
                kept.setdefault("at", int(time.time() * 1000))
            self._append({operation: kept})

    def remove(self, lines: int | None = None) -> bool:
        """Forget the run.

        Args:
            lines: How many the store has; None: whatever waits.

        Returns:
            Whether it was forgotten: not when more was kept meanwhile.
        """
        with self._alone():
            if lines is not None and len(self.lines()) > lines:
                return False
            shutil.rmtree(self.folder, ignore_errors=True)
            self._lock.unlink(missing_ok=True)
        return True

    @property
    def _lock(self) -> Path:
        return self.folder.with_name(f"{self.run_id}.lock")

    def _alone(self) -> AbstractContextManager[None]:
        """A training appends while another process writes what it kept, and removes it: nothing may fall between."""
        return waited_for(self._lock)

    def _append(self, line: Mapping[str, Any]) -> None:
        """Append a line as a whole: of a full disk nothing is left that the next one would be glued to."""
        text = (json.dumps(line, ensure_ascii=False) + "\n").encode()
        with storage_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.journal, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                size = os.fstat(descriptor).st_size
                if size and os.pread(descriptor, 1, size - 1) != b"\n":
                    text = b"\n" + text  # after half a line, as a loss of power leaves it
                try:
                    while text:
                        text = text[os.write(descriptor, text) :]
                    os.fsync(descriptor)
                except OSError:
                    os.ftruncate(descriptor, size)
                    raise
            finally:
                os.close(descriptor)

    def _copied(self, path: Path) -> Path:
        with storage_errors(self.folder):
            place = self.folder / "files" / uuid4().hex[:12]
            place.mkdir(parents=True)
            if path.is_dir():
                shutil.copytree(path, place / path.name)
            else:
                shutil.copyfile(path, place / path.name)
        return place / path.name

    def lines(self) -> list[dict[str, Any]]:
        """What waits, in order; a line that was left half is dropped, and it alone."""
        found = []
        with suppress(OSError):
            # Not `splitlines`: a text may hold other ends of lines than this one, such as U+2028.
            for text in self.journal.read_bytes().split(b"\n"):
                with suppress(ValueError):
                    if isinstance(line := json.loads(text), dict):
                        found.append(line)
        return found

    @property
    def written(self) -> int:
        """How many lines the store has already."""
        with suppress(OSError, ValueError):
            return int((self.folder / "done").read_text(encoding="utf-8"))
        return 0

    def mark(self, lines: int) -> None:
        """Remember that the store has so many lines."""
        write_text(self.folder / "done", str(lines))


def waiting(folder: Path | None = None) -> list[Spool]:
    """The runs of which something waits, oldest first."""
    place = folder or spool_folder()
    found = [path for path in place.glob(f"*/{_JOURNAL}") if path.is_file()]
    return [Spool(path.parent.name, place) for path in sorted(found, key=lambda path: path.stat().st_ctime)]


def imported_as(run_id: str) -> str | None:
    """What the store calls a run that was begun without it; None where it does not have it yet."""
    return _imported().get(run_id)


def remember(run_id: str, known_as: str) -> None:
    """Keep what the store calls a run that was begun without it: a training may yet go on in it."""
    write_text(spool_folder() / _IMPORTED, json.dumps(_imported() | {run_id: known_as}, indent=1) + "\n")


def _imported() -> dict[str, str]:
    with suppress(OSError, ValueError):
        found = json.loads((spool_folder() / _IMPORTED).read_text(encoding="utf-8"))
        if isinstance(found, dict):  # a damaged file is one in which nothing is known
            return {name: known for name, known in found.items() if isinstance(known, str)}
    return {}
