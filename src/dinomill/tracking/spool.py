"""What could not be written because the store was away: kept in files, and written by `dinomill tracking sync`.

    data/mlflow/spool/                     of the project; DINOMILL_SPOOL names another folder
      <run>/journal.jsonl                  first where the run belongs, then an operation a line, in their order
      <run>/files/<n>/…                    copies of its artifacts
      <run>/done                           how many lines the store has already
      imported.json                        runs that began here, and what the store calls them

A run that was begun without its store has an id that begins with ``spooled-``; one that lost it later keeps its own.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from dinomill.layers.project import kept_project, project_above
from dinomill.storage.atomic import storage_errors, write_text
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
        if not self.journal.exists():
            self._append({"begin": {"uri": uri}})
        kept = dict(values)
        if operation == "artifacts":
            kept["path"] = str(self._copied(Path(kept["path"])).relative_to(self.folder))
        if operation == "end":
            kept.setdefault("at", int(time.time() * 1000))
        self._append({operation: kept})

    def remove(self) -> None:
        """Forget the run."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _append(self, line: Mapping[str, Any]) -> None:
        with storage_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            text = (json.dumps(line, ensure_ascii=False) + "\n").encode()
            descriptor = os.open(self.journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                os.write(descriptor, text)  # one write: threads and processes do not mix their lines
                os.fsync(descriptor)
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
        """What waits, in order; a line that a killed process left half is dropped with the rest of it."""
        found = []
        with suppress(OSError):
            for text in self.journal.read_text(encoding="utf-8").splitlines():
                with suppress(ValueError):
                    found.append(json.loads(text))
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
    with suppress(OSError, ValueError):
        found: str | None = json.loads((spool_folder() / _IMPORTED).read_text(encoding="utf-8")).get(run_id)
        return found
    return None


def remember(run_id: str, known_as: str) -> None:
    """Keep what the store calls a run that was begun without it: a training may yet go on in it."""
    path = spool_folder() / _IMPORTED
    known: dict[str, str] = {}
    with suppress(OSError, ValueError):
        known = json.loads(path.read_text(encoding="utf-8"))
    write_text(path, json.dumps(known | {run_id: known_as}, indent=1) + "\n")
