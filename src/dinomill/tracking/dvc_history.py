"""What git and DVC know of earlier results: every lock that was ever committed, and the files that DVC still has.

dvc.lock, conf/**/dvc.lock      in git: a hash a folder
<cache>/files/md5/<2>/<30>.dir  the files of a folder, each with its hash
<cache>/files/md5/<2>/<30>      a file
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dinomill.tracking.dvc_versions import cache_folder, dvc_config

_OUT = re.compile(r"^\s*- path: (?P<path>.+?)\n\s+hash: md5\n\s+md5: (?P<md5>[0-9a-f]{32}\.dir)$", re.M)
_LOCKS = ("dvc.lock", "conf/*dvc.lock")  # of git's patterns: a star goes over slashes


@dataclass
class Earlier:
    """A folder as DVC has it: its hash, and the commits whose lock names it, the newest first (commit, day)."""

    folder: str
    version: str
    commits: list[tuple[str, str]] = field(default_factory=list)

    @property
    def said(self) -> str | None:
        """The commits, for people; None: in no commit."""
        if not self.commits:
            return None
        newest, day = self.commits[0]
        more = f", and {len(self.commits) - 1} more" if len(self.commits) > 1 else ""
        return f"{newest[:10]} of {day}{more}"


class History:
    """What the locks of a project say, now and in every commit of every branch.

    Args:
        root: The project's folder.
        folders: Below it, that are looked for.
    """

    def __init__(self, root: Path, folders: Iterable[str]) -> None:
        self._root = root
        self._wanted = set(folders)
        self._cache = cache_folder(root)
        self.remotes = bool(dvc_config(root).get("remote"))  # from which what is not here may come
        self.in_git = any((place / ".git").exists() for place in (root.absolute(), *root.absolute().parents))
        self.trouble: str | None = None  # why git could not be asked
        self.found: dict[tuple[str, str], Earlier] = {}
        for lock in sorted({path for pattern in ("dvc.lock", "conf/**/dvc.lock") for path in root.glob(pattern)}):
            with suppress(OSError):  # no right to read it, or a folder of this name: DVC itself says so
                self._read(lock.read_text(encoding="utf-8", errors="replace"), None)
        self.present = set(self.found)  # folder and version, as the locks that lie here have them
        self._committed()

    def all_of(self, folder: str) -> list[Earlier]:
        """Every version of a folder, the newest first."""
        return [one for (name, _), one in self.found.items() if name == folder]

    def file(self, version: str, relative: str) -> Path | None:
        """Where DVC keeps a file of a version of a folder; None: it does not have it here."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            listed = json.loads((self._cache / version[:2] / version[2:]).read_text(encoding="utf-8"))
            for one in listed:
                if one["relpath"] == relative:
                    kept = self._cache / one["md5"][:2] / one["md5"][2:]
                    return kept if kept.is_file() else None
        return None

    def read(self, version: str, relative: str) -> dict[str, Any] | None:
        """A JSON file of a version of a folder; None: it is not here."""
        kept = self.file(version, relative)
        with suppress(OSError, ValueError):
            found = None if kept is None else json.loads(kept.read_text(encoding="utf-8"))
            return found if isinstance(found, dict) else None
        return None

    def _read(self, text: str, commit: tuple[str, str] | None) -> None:
        for match in _OUT.finditer(text):
            if match["path"] in self._wanted:
                key = match["path"], match["md5"]
                one = self.found.setdefault(key, Earlier(*key))
                if commit is not None and commit not in one.commits:
                    one.commits.append(commit)

    def _committed(self) -> None:
        """Read every lock of every commit; git is asked twice, however many there are."""
        log = self._git("log", "--all", "--raw", "--no-abbrev", "--diff-merges=first-parent", "--no-renames",
                        "--format=%x00%H %cs", "--", *_LOCKS)  # fmt: skip
        changed: list[tuple[tuple[str, str], str]] = []
        for part in log.split("\0")[1:]:
            head, *lines = part.splitlines()
            commit, _, day = head.partition(" ")
            blobs = (line.split()[3] for line in lines if line.startswith(":"))
            changed += [((commit, day), blob) for blob in blobs if set(blob) != {"0"}]
        texts = self._blobs(list(dict.fromkeys(blob for _, blob in changed)))
        for made, blob in changed:
            self._read(texts.get(blob, ""), made)

    def _blobs(self, names: list[str]) -> dict[str, str]:
        if not names:
            return {}
        raw = self._run(["cat-file", "--batch"], ("\n".join(names) + "\n").encode())
        texts, start = {}, 0
        for name in names:
            end = raw.find(b"\n", start)
            if end < 0:
                break
            said = raw[start:end].split()
            if len(said) != 3:  # "<name> missing", of a shallow clone
                start = end + 1
                continue
            size = int(said[2])
            texts[name] = raw[end + 1 : end + 1 + size].decode("utf-8", "replace")
            start = end + 1 + size + 1
        return texts

    def _git(self, *arguments: str) -> str:
        return self._run(list(arguments)).decode("utf-8", "replace")

    def _run(self, arguments: list[str], given: bytes | None = None) -> bytes:
        command = ["git", "-c", "core.quotepath=off", *arguments]
        try:
            done = subprocess.run(command, cwd=self._root, input=given, capture_output=True, timeout=120, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            self.trouble = str(error)
            return b""
        if done.returncode:
            self.trouble = (
                done.stderr.decode("utf-8", "replace").strip().splitlines()[0] if done.stderr else "git failed"
            )
        return done.stdout
