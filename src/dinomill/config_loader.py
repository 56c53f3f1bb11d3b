"""How Kedro finds its configuration: the layers of `dinomill.layers`."""

from __future__ import annotations

import atexit
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from kedro.config import OmegaConfigLoader

from dinomill.errors import ConfigError
from dinomill.layers import Layers


class LayeredConfigLoader(OmegaConfigLoader):
    """Kedro's loader, reading ``conf/base``, the environment, ``conf/local`` and ``--params``, one over the other.

    Kedro's own lays one environment over the base, resolves each by itself, and knows not which file said what.

    Args:
        conf_source: The folder of the configuration.
        env: A folder in it; see `dinomill.layers.Layers`.
        runtime_params: What was given with ``--params``.
        keywords: As Kedro's loader takes them.

    Raises:
        ConfigError: When there is no such environment, or ``conf_source`` is no folder.
    """

    def __init__(
        self,
        conf_source: str | Path,
        env: str | None = None,
        runtime_params: dict[str, Any] | None = None,
        **keywords: Any,
    ) -> None:
        folder = Path(conf_source)
        if folder.is_file() and tarfile.is_tarfile(folder):
            conf_source = folder = _unpacked(folder)
        if not folder.is_dir():
            raise ConfigError(
                f"The configuration {folder} is not there.",
                expected="a folder like conf/, or the archive of one that `kedro package` makes",
            )
        self.layers = Layers(env, conf=_shown(folder), params=runtime_params)
        super().__init__(conf_source, env=self.layers.env, runtime_params=runtime_params, **keywords)

    def __getitem__(self, key: str) -> Any:
        """One kind of configuration, merged and resolved: ``parameters``, ``globals``, ``catalog``, ``credentials``."""
        if key in self.data:  # set by hand
            return self.data[key]
        if key == "globals":
            return self.layers.globals
        if key == "parameters":
            return self.layers.parameters
        if key in ("catalog", "credentials"):
            return self.layers.entries(key)
        return super().__getitem__(key)


def _unpacked(archive: Path) -> Path:
    """The folder of configuration in an archive, unpacked until this process ends.

    Raises:
        ConfigError: When the archive holds none.
    """
    place = Path(tempfile.mkdtemp(prefix="dinomill-conf-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    try:
        with tarfile.open(archive) as file:
            file.extractall(place, filter="data")  # nothing lands outside of the place
    except (tarfile.TarError, OSError) as error:
        raise ConfigError(
            f"The archive {archive} cannot be unpacked.", found=str(error), action="make it anew: kedro package"
        ) from None
    found = [path.parent for path in place.rglob("base") if path.is_dir()]
    if not found:
        raise ConfigError(f"The archive {archive} holds no configuration.", expected="a folder with base/ in it")
    return min(found, key=lambda path: len(path.parts))


def _shown(folder: Path) -> Path:
    """The folder as messages shall name it: relative to the working directory, where it lies in it."""
    here = Path.cwd()
    return folder.relative_to(here) if folder.is_absolute() and folder.is_relative_to(here) else folder
