"""The layers of the configuration, laid over one another: base, an environment, local, ``--params``.

conf/base/        the default of everything
conf/<name>/      an environment, and below it what differs; ``paper/vitl14`` is one as well
conf/local/       what differs on this machine, whichever environment runs

Parameters and globals are merged key by key, but each of the sources is replaced whole: a merged ``seeds`` would
silently keep the sample's among one's own. Catalog entries are replaced whole too. ``${…}`` is resolved when all is
merged, so that ``data: data/mine`` in an environment moves every folder of the base.

Kedro reads through this (`dinomill.config_loader`), and so does every command that starts no Kedro session.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dinomill.errors import ConfigError
from dinomill.layers.environments import CONF, check_environment, files_of, layers_of
from dinomill.layers.files import read_mapping
from dinomill.layers.settings import refuse_unknown, refuse_wrong_kinds

SOURCES = frozenset({"pool", "seeds", "labelled"})
PARAMS = "--params"
_FURTHEST = 8  # references that are followed from one global to the next; a circle of them is said when resolved
# A value that is taken from a global, perhaps with something behind it.
_REFERENCE = re.compile(r"\$\{globals:\s*([\w.]+)[^{}]*\}[^${}]*")
# The same within the globals.
_WITHIN = re.compile(r"\$\{\s*([\w.]+)\s*\}[^${}]*")


class Said(str):
    """The file that set a value, with the key that did so there: of ``folders.curated`` that is often ``data``."""

    key: str

    def __new__(cls, file: str, key: str) -> Said:
        """A file's name that knows the key."""
        said = super().__new__(cls, file)
        said.key = key
        return said


@dataclass(frozen=True)
class Layer:
    """One file, or what was given with ``--params``.

    Args:
        name: The file relative to the project's root, or ``--params``.
        values: What it says, unresolved.
    """

    name: str
    values: dict[str, Any]


class Layers:
    """The configuration of one environment.

    Args:
        env: A folder of ``conf``: ``fashion``, ``paper/vitl14``. None: no more than ``conf/local`` over the base.
        conf: The folder of the configuration.
        params: Parameters given with ``--params``, nested.

    Raises:
        ConfigError: When there is no such environment.
    """

    def __init__(self, env: str | None = None, *, conf: Path = CONF, params: Mapping[str, Any] | None = None) -> None:
        self.env = check_environment(env, conf)
        self.conf = conf
        self._params = dict(params or {})
        self._known: dict[str, list[list[Layer]]] = {}

    @cached_property
    def globals(self) -> dict[str, Any]:
        """The merged and resolved ``globals.yml``.

        Raises:
            ConfigError: When a file is no YAML mapping, refers to what is not there, or says what nobody reads.
        """
        merged: dict[str, Any] = {}
        for layer in self.read("globals"):
            merged = merge(merged, layer.values, whole=SOURCES)
        refuse_unknown(self)
        # Not for a file to say: ${globals:environment} is the name that was given with --env.
        resolved = self._resolved(merged | {"environment": self.env}, "globals")
        refuse_wrong_kinds(self, resolved)
        return resolved

    @cached_property
    def parameters(self) -> dict[str, Any]:
        """The merged and resolved parameters, ``--params`` over all.

        Raises:
            ConfigError: When a file is no YAML mapping or refers to what is not there, or two of a layer set one key.
        """
        merged: dict[str, Any] = {}
        for layer in self.read("parameters"):
            merged = merge(merged, layer.values)
        return self._resolved(merged, "parameters")

    def entries(self, kind: str) -> dict[str, Any]:
        """``catalog`` or ``credentials``, entry by entry; keys with a leading ``_`` are the files' own."""
        merged: dict[str, Any] = {}
        for layer in self.read(kind):
            merged |= layer.values
        return {key: value for key, value in self._resolved(merged, kind).items() if not key.startswith("_")}

    def files(self, kind: str) -> list[Path]:
        """The files of a kind (``globals``, ``parameters``, ``catalog``) that apply, the lowest layer first."""
        return [path for folder in self.folders for path in files_of(folder, kind)]

    @property
    def folders(self) -> list[Path]:
        """The layers' folders, the lowest first."""
        return layers_of(self.env, self.conf)

    def origin(self, key: str) -> str:
        """Who set a parameter or a global: the file, or ``--params``.

        Args:
            key: Dotted, list items by their number: ``pretraining.model.depth``, ``pool.0``, ``folders.work``.

        Returns:
            The topmost layer that sets the key; for a key that none sets, the topmost that sets most of the way to it.
            A value that is taken from a global was set where the global was: a `Said`, which names that global too.
        """
        return self._origin(key, ("parameters", "globals"))

    def _origin(self, key: str, kinds: tuple[str, ...]) -> str:
        parts = key.split(".")
        found = [_deepest(self.read(kind), parts) for kind in kinds]
        depth, name, value = max(found, key=lambda item: item[0])
        of_globals = found[-1][0] == depth and kinds[-1] == "globals" and found[0][0] < depth
        pattern = _WITHIN if of_globals else _REFERENCE
        said = Said(name, key) if name else Said(self._expected(parts[0]), key)
        for _ in range(_FURTHEST):
            reference = pattern.fullmatch(value) if isinstance(value, str) else None
            if reference is None:
                break
            taken = reference[1].split(".")
            depth, file, value = _deepest(self.read("globals"), taken)
            if depth < len(taken):
                break
            said, pattern = Said(file, reference[1]), _WITHIN
        return said

    def _expected(self, top: str) -> str:
        """The file that should say a key which no file says anything about."""
        own = self.conf / "base" / top / "parameters.yml"
        return (own if own.parent.is_dir() else self.conf / "base" / "globals.yml").as_posix()

    def read(self, kind: str) -> Iterator[Layer]:
        """What each file of a kind says, the lowest layer first.

        Raises:
            ConfigError: When one is no YAML mapping, or two files of a layer set one key.
        """
        if kind not in self._known:
            read = []
            for folder in self.folders:
                layers = [Layer(path.as_posix(), read_mapping(path)) for path in files_of(folder, kind)]
                _refuse_duplicates(layers, nested=kind == "parameters")
                read.append(layers)
            if kind == "parameters" and self._params:
                read.append([Layer(PARAMS, self._params)])
            self._known[kind] = read
        for layers in self._known[kind]:
            yield from layers

    def _resolved(self, merged: dict[str, Any], kind: str) -> dict[str, Any]:
        from omegaconf import OmegaConf
        from omegaconf.errors import OmegaConfBaseException
        from omegaconf.resolvers import oc

        found = {} if kind == "globals" else self.globals
        # OmegaConf's resolvers belong to the process: whoever resolves says first whose globals are meant.
        OmegaConf.clear_resolver("globals")
        OmegaConf.clear_resolver("runtime_params")
        OmegaConf.clear_resolver("oc.env")  # what the environment says belongs in credentials alone
        if kind == "credentials":
            OmegaConf.register_new_resolver("oc.env", oc.env)
        if kind != "globals":
            OmegaConf.register_new_resolver("globals", self._lookup(found, "conf/…/globals.yml"))
            OmegaConf.register_new_resolver("runtime_params", self._lookup(self._params, PARAMS))
        try:
            resolved = OmegaConf.to_container(OmegaConf.create(merged), resolve=True)
        except OmegaConfBaseException as error:
            key = str(getattr(error, "full_key", None) or "")
            raise ConfigError(
                f"{self._origin(key, (kind,)) if key else 'A file under conf/'} refers to what cannot be found.",
                found=f"{key}: {str(error).splitlines()[0]}",
                expected="${globals:KEY} for a key of globals.yml, ${KEY} for one of the same kind of file",
                action="correct the reference",
            ) from None
        assert isinstance(resolved, dict)
        return {str(key): value for key, value in resolved.items()}

    @staticmethod
    def _lookup(values: Mapping[str, Any], where: str) -> Any:
        from omegaconf import OmegaConf

        tree = OmegaConf.create(dict(values))
        missing = object()

        def find(key: str, default: Any = missing) -> Any:
            found = OmegaConf.select(tree, key, default=default)
            if found is missing:
                raise KeyError(f"there is no {key!r} in {where}")
            return found

        return find


def merge(below: Mapping[str, Any], above: Mapping[str, Any], *, whole: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Lay a mapping over another, key by key at every depth; lists and the top-level keys in ``whole`` are replaced."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping) and key not in whole
        merged[key] = merge(old, value) if both else value  # type: ignore[arg-type]
    return merged


def _deepest(layers: Iterator[Layer], parts: list[str]) -> tuple[int, str, Any]:
    """How far the way to a key goes, in which layer, and what stands there; the last of equals."""
    best: tuple[int, str, Any] = (0, "", None)
    for layer in layers:
        value: Any = layer.values
        depth = 0
        for part in parts:
            if isinstance(value, Mapping) and part in value:
                value = value[part]
            elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
                value = value[int(part)]
            else:
                break
            depth += 1
        # Whoever says null, or a number, where others below have a mapping took away all that they said in it.
        replaces = depth < len(parts) and not isinstance(value, Mapping)
        if depth and (depth >= best[0] or replaces):
            best = (depth, layer.name, value)
    return best


def _refuse_duplicates(layers: list[Layer], *, nested: bool) -> None:
    """Within a layer no order is defined: two files may not set the same key."""
    seen: dict[str, str] = {}
    for layer in layers:
        for key in _keys(layer.values) if nested else layer.values:
            if key in seen and not key.startswith("_"):
                raise ConfigError(
                    f"{seen[key]} and {layer.name} both set `{key}`.",
                    expected="one file of a layer for a key",
                    action="remove it from one of them",
                )
            seen[key] = layer.name


def _keys(values: Mapping[str, Any], above: str = "") -> Iterator[str]:
    for key, value in values.items():
        name = f"{above}{key}"
        if isinstance(value, Mapping) and value:
            yield from _keys(value, f"{name}.")
        else:
            yield name
