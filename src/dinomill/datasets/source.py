"""A catalog entry that is the user's own images: folders, archives, manifests or s3:// prefixes, checked and passed on.

Nothing is read here: a stage receives the locations and streams the images itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

from kedro.io import AbstractDataset
from kedro.io.core import DatasetError

from dinomill.errors import InputError

# One location (labelled), several (pool; each may be `{path: …, tiles: …}`), named ones (seeds), or none.
Locations: TypeAlias = str | list[str | dict[str, Any]] | dict[str, str] | None

_BASE = "conf/base/globals.yml"


class SourceDataset(AbstractDataset[None, Locations]):
    """Where a team's images lie; loading it checks that the local ones exist.

    Args:
        name: The key in ``globals.yml`` that the locations come from; errors name it.
        locations: A location, a list of them, or a mapping from a name to one. Local paths are relative to the
            project's root; anything with ``://`` is a URI and is not looked at here.
        required: Whether an empty value is an error.
        metadata: Anything; read by Kedro's plugins only.
    """

    def __init__(
        self,
        name: str,
        locations: Locations,
        required: bool = True,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        self._name = name
        self._locations = locations
        self._required = required
        self.metadata = {"kedro-viz": {"layer": "raw"}, **(metadata or {})}
        # The file whose word counts, for messages: whoever knows the layers of the configuration says which one.
        self.said_in = _BASE
        self.root = Path()  # the project's, as whoever knows it says

    @property
    def name(self) -> str:
        """The global that the locations come from."""
        return self._name

    @property
    def local_paths(self) -> list[Path]:
        """The locations that are paths on this machine: what DVC can watch."""
        return [Path(place) for place in self._each() if "://" not in place]

    def load(self) -> Locations:
        """Check the local locations and return all of them as they were configured.

        Asked from elsewhere than the project's root (a notebook), local ones are absolute.

        Raises:
            DatasetError: Caused by an InputError; see `check`.
        """
        self.check()
        return self._locations if self.root.absolute() == Path.cwd() else _below(self.root, self._locations)

    def check(self) -> None:
        """Look whether the local locations exist and hold anything.

        Raises:
            InputError: When a location does not exist, a folder is empty, or nothing is configured.
        """
        if not self._locations and self._required:
            raise InputError(
                f"No {self._name} is configured.",
                found=f"{self._name}: {self._locations}",
                expected="a folder, archive, manifest or s3:// prefix",
                action="write an environment for your images: `dinomill init NAME --pool PATH`"
                if self.said_in == _BASE
                else f"set `{self._name}` in {self.said_in}",
            )
        for path in self.local_paths:
            self._check(path if self.root == Path() else self.root / path)

    def save(self, data: None) -> None:
        """Sources are the user's: they are never written."""
        del data
        raise DatasetError(f"{self._name} is an input of the project and is never written.")

    def _each(self) -> Iterator[str]:
        if isinstance(self._locations, str):
            yield self._locations
        elif isinstance(self._locations, dict):
            yield from map(str, self._locations.values())
        else:
            for place in self._locations or ():
                yield str(place.get("path", "")) if isinstance(place, dict) else str(place)

    def _check(self, path: Path) -> None:
        action = (
            "run `dinomill sample` to lay out the sample; for your own images: `dinomill init NAME --pool PATH`"
            if self.said_in == _BASE
            else f"correct `{self._name}` in {self.said_in}"
        )
        if not path.exists():
            raise InputError(
                f"The {self._name} location {path} does not exist.",
                found=f"nothing at {path.absolute()}",
                expected="a folder, archive or manifest",
                action=action,
            )
        if path.is_dir() and next(path.iterdir(), None) is None:
            raise InputError(
                f"The {self._name} folder {path} is empty.",
                found="no file in it",
                expected="image files, in any sub-folders",
                action=action,
            )

    def _exists(self) -> bool:
        return all((self.root / path).exists() for path in self.local_paths)

    def _describe(self) -> dict[str, Any]:
        return {"name": self._name, "locations": self._locations}


def _below(root: Path, locations: Any) -> Any:
    """Locations with the local ones below a folder."""
    if isinstance(locations, str):
        return locations if "://" in locations else str(root / locations)
    if isinstance(locations, dict):
        # Of a place with settings only `path` is a place; of named ones every value.
        names = {"path"} if "path" in locations else set(locations)
        return {name: _below(root, one) if name in names else one for name, one in locations.items()}
    if isinstance(locations, list):
        return [_below(root, one) for one in locations]
    return locations
