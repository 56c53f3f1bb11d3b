"""Datasets, networks, versions and archives by their handles: those that lie in the project, and those of before.

A handle of before is read as plain JSON: an earlier version of dinomill may have written it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from dinomill.handles import HANDLE_NAME
from dinomill.lineage.places import Place, everywhere
from dinomill.lineage.thread import OVERVIEW, Kind, Thing, Thread
from dinomill.tracking.dvc_history import Earlier, History

MANIFEST = "manifest.parquet"
Handle = Mapping[str, Any]
_REGISTERED = ("registration", "students", "teacher")  # what a registration needs, or has left


class Results:
    """What handles say, as a part of a thread.

    Args:
        thread: What is added to.
        found: The environments.
        history: What was there before.
    """

    def __init__(self, thread: Thread, found: list[Place], history: History) -> None:
        self._thread = thread
        self._history = history
        self.manifests: dict[str, Path] = {}  # by the sha256 of the manifest, where one is at hand
        self.sources: dict[str, list[str]] = {}  # of a dataset
        self.said_aliases: dict[str, str] = {}  # of a version, as its handle has them
        self._places = found
        gone: dict[str, list[Earlier]] = {}
        for folder, read in (
            ("curated", self._dataset),
            ("teacher", self._network),
            ("students", self._networks),
            ("registration", self._version),
            ("package", self._archive),
        ):
            for place in everywhere(found, folder):
                gone[folder] = gone.get(folder, []) + self._folder(place, read)
        self._say_gone(gone)

    def _folder(self, place: str, read: Any) -> list[Earlier]:
        """Read what lies there and what lay there; what DVC has no more, or not here."""
        lying = read_handle(Path(place) / HANDLE_NAME)
        if lying is not None:
            self._read(read, lying, place, None)
        gone = []
        for earlier in self._history.all_of(place):
            handle = self._history.read(earlier.version, HANDLE_NAME)
            if handle is not None:
                self._read(read, handle, place, earlier)
            elif lying is None and (place, earlier.version) in self._history.present:
                self._thread.lack("results that dvc.lock names are not here", "dvc pull")
            else:
                gone.append(earlier)
        return gone

    def _read(self, read: Any, handle: Handle, place: str, earlier: Earlier | None) -> None:
        """Read a handle; what is damaged, or of another version, is passed over and said."""
        try:
            read(handle, None if earlier else place, earlier)
        except (TypeError, AttributeError, ValueError, KeyError):
            of = "" if earlier is None else f" of {earlier.said or earlier.version[:12]}"
            self._thread.lack(
                f"{place}/{HANDLE_NAME}{of} is damaged: what it says is left out",
                "dvc checkout, or the stage again" if earlier is None else "git log   (who wrote it)",
            )

    def brings_version(self, place: Place) -> str:
        """The one command that is missing where the registry does not know what an environment registered."""
        if any((path := place.folders.get(name)) and (path / HANDLE_NAME).is_file() for name in _REGISTERED):
            return f"kedro run --pipelines registration{place.option}   (registers what lies here)"
        folder = place.folders.get("registration")
        if folder is not None and any(name == folder.as_posix() for name, _ in self._history.present):
            return f"dvc pull   (its results; then kedro run --pipelines registration{place.option} registers them)"
        return place.run

    def _say_gone(self, gone: Mapping[str, list[Earlier]]) -> None:
        """In one line, where it may matter: in which datasets an image was."""
        if not (every := [one for found in gone.values() for one in found]):
            return
        folders = list(dict.fromkeys(one.folder for one in every))
        versions = "one earlier version" if len(every) == 1 else f"{len(every)} earlier versions"
        where = folders[0] if len(folders) == 1 else f"{len(folders)} folders"
        day, commit = max(one.commits[0][::-1] if one.commits else ("", "") for one in every)
        said = f"commit {commit[:10]} of {day}" if commit else "the lock that is not committed"
        self._thread.lack(
            f"{versions} of {where} ({'' if len(every) == 1 else 'the newest: '}{said}): not in DVC's cache on this "
            + ("machine" if self._history.remotes else "machine, and no remote is set"),
            "dvc fetch --all-commits   (`dvc remote list` says from where)"
            if self._history.remotes
            else "dvc remote add -d NAME URL, of one that has them, then dvc fetch --all-commits; else they are lost",
            about=(Kind.IMAGE if gone.get("curated") else OVERVIEW,),
        )

    def _dataset(self, handle: Handle, lies: str | None, earlier: Earlier | None) -> None:
        digest = str(handle.get("manifest_sha256", ""))
        fates = handle.get("fates") or {}
        thing = self._thread.add(
            Kind.DATASET,
            digest,
            digest[:12],
            images=f"{handle.get('images', 0):,} kept of {handle.get('pool_images', 0):,} files",
            sources=", ".join(handle.get("sources") or ()),
            withdrawn=f"{fates['withdrawn']:,} files" if fates.get("withdrawn") else None,
        )
        self._found(thing, lies, earlier)
        self.sources[digest] = [str(one) for one in handle.get("sources") or ()]
        manifest = Path(lies) / MANIFEST if lies else None
        if earlier is not None and digest not in self.manifests:
            manifest = self._history.file(earlier.version, MANIFEST)
        if manifest is not None and manifest.is_file():
            self.manifests.setdefault(digest, manifest)

    def _networks(self, handle: Handle, lies: str | None, earlier: Earlier | None) -> None:
        for name, one in (handle.get("students") or {}).items():
            self._network({"name": name, **one}, f"{lies}/{name}" if lies else None, earlier)

    def _network(self, handle: Handle, lies: str | None, earlier: Earlier | None) -> None:
        weights = str(handle.get("weights_sha256", ""))
        thing = self._thread.add(
            Kind.NETWORK,
            weights,
            f"{handle.get('name', '')} {weights[:12]}",
            trained=f"{handle.get('steps', 0):,} steps, {handle.get('images_seen', 0):,} images seen",
            started_from=handle.get("initial"),
            origin=handle.get("origin"),
        )
        self._found(thing, lies, earlier)
        if data := handle.get("dataset_sha256"):
            self._thread.link(self._thread.add(Kind.DATASET, str(data), str(data)[:12]), thing, "trained on it")
        if teacher := handle.get("teacher_sha256"):
            above = self._thread.add(Kind.NETWORK, str(teacher), f"teacher {str(teacher)[:12]}")
            self._thread.link(above, thing, "taught it")

    def _version(self, handle: Handle, lies: str | None, earlier: Earlier | None) -> None:
        thing = self._thread.add(Kind.VERSION, f"{handle.get('model')}/{handle.get('version')}")
        if lies:
            self.said_aliases[thing.key] = ", ".join(map(str, handle.get("aliases") or ()))
        thing.title = f"models:/{thing.id}"
        self._found(thing, None, earlier)  # a version lies in the registry, not beside its handle
        if weights := handle.get("weights_sha256"):
            above = self._thread.add(Kind.NETWORK, str(weights), str(weights)[:12])
            self._thread.link(above, thing, "registered as")

    def _archive(self, handle: Handle, lies: str | None, earlier: Earlier | None) -> None:
        digest = str(handle.get("archive_sha256", ""))
        name = Path(str(handle.get("archive", ""))).name
        thing = self._thread.add(Kind.ARCHIVE, digest, f"{name} {digest[:12]}")
        self._found(thing, str(handle.get("archive")) if lies else None, earlier)
        version = self._thread.add(Kind.VERSION, f"{handle.get('model')}/{handle.get('version')}")
        version.title = f"models:/{version.id}"
        self._thread.link(version, thing, "packaged as")

    def _found(self, thing: Thing, lies: str | None, earlier: Earlier | None) -> None:
        """Where a thing lies now, what DVC calls it, and which commits have it."""
        if lies:
            thing.facts["lies in"] = lies
        if earlier is not None:
            thing.facts.setdefault("dvc", earlier.version)
            if earlier.said:
                thing.facts.setdefault("commit", earlier.said)


def read_handle(path: Path) -> Handle | None:
    """A handle as plain JSON; None where there is none that can be read."""
    with suppress(OSError, ValueError):
        found = json.loads(path.read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else None
    return None
