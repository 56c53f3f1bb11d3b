"""What globals.yml may say: keys that somebody reads, each of its kind."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from dinomill.errors import ConfigError

if TYPE_CHECKING:
    from dinomill.layers.merged import Layers

_TEXTS = ("data", "dataset", "work", "experiment", "model", "tracking_uri", "withdrawn")
_FOLDERS = (
    *("sample", "scan", "duplicates", "embeddings", "selection", "curated", "teacher", "students", "evaluation"),
    *("registration", "package", "report", "quality", "work", "cache"),
)
_KNOWN = ("pool", "seeds", "labelled", "folders", "artifact_root", *_TEXTS)
_REFERENCES = re.compile(r"\$\{(?:globals:)?\s*([\w.]+)")


def refuse_unknown(layers: Layers) -> None:
    """Refuse keys of globals.yml that nothing reads: a misspelt one would silently change nothing.

    A key of one's own is known as soon as a file refers to it: ``${globals:KEY}``.

    Raises:
        ConfigError: Naming the key, its file and the likely one.
    """
    used: set[str] | None = None
    for layer in layers.read("globals"):
        own = layer.values.get("folders")
        keys: list[tuple[str, tuple[str, ...]]] = [(str(key), _KNOWN) for key in layer.values]
        keys += [(f"folders.{key}", tuple(f"folders.{name}" for name in _FOLDERS)) for key in _keys(own)]
        for key, known in keys:
            if key in known:
                continue
            used = _referred_to(layers) if used is None else used
            if key == "environment" or not any(one == key or one.startswith(f"{key}.") for one in used):
                _refuse(key, known, layer.name)


def _keys(values: Any) -> Iterable[Any]:
    return values if isinstance(values, Mapping) else ()


def _refuse(key: str, known: tuple[str, ...], file: str) -> None:
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    raise ConfigError(
        f"Unknown key {key!r} in {file}" + (f"; did you mean {close[0]!r}?" if close else "."),
        found="no stage reads it, and no file refers to it",
        expected=f"one of {', '.join(known)}",
        action=f"correct it, or take it out of {file}; settings of a stage belong into its parameters.yml",
    )


def _referred_to(layers: Layers) -> set[str]:
    kinds = ("globals", "parameters", "catalog")
    texts = (json.dumps(layer.values, default=str) for kind in kinds for layer in layers.read(kind))
    return {key for text in texts for key in _REFERENCES.findall(text)}


def refuse_wrong_kinds(layers: Layers, settings: Mapping[str, Any]) -> None:
    """Refuse values that are not what their key takes.

    Args:
        layers: Where they come from.
        settings: The globals, merged and resolved.

    Raises:
        ConfigError: Naming the file and the key of each.
    """
    wrong: dict[str, list[str]] = {}
    for key, value, expected in _wrong_kinds(settings):
        said = layers.origin(key)
        wrong.setdefault(said, []).append(f"    {key}: expected {expected} (found {value!r})")
    if wrong:
        lines = (
            line for file, found in wrong.items() for line in (f"The configuration in {file} is not valid:", *found)
        )
        raise ConfigError("\n".join(lines), action="correct the key in that file" if len(wrong) == 1 else None)


def _wrong_kinds(settings: Mapping[str, Any]) -> Iterable[tuple[str, Any, str]]:
    for key in _TEXTS:
        if key in settings and not _text(settings[key]):
            yield (
                key,
                settings[key],
                "a text, such as " + ("data/mine" if key in ("data", "dataset", "work") else "mine"),
            )
    pool = settings.get("pool")
    if not (pool is None or _text(pool) or pool == "" or (isinstance(pool, list) and all(map(_place, pool)))):
        yield "pool", pool, "places, as a list: [path/to/images, {path: path/to/scenes, tiles: {side: 256}}]"
    seeds = settings.get("seeds")
    if isinstance(seeds, Mapping):
        for name, place in seeds.items():
            if not _text(place):
                yield f"seeds.{name}", place, "a place: path/to/images"
    elif seeds:
        yield "seeds", seeds, "a name and a place each: {examples: path/to/good/images}"
    labelled = settings.get("labelled")
    if labelled and not _text(labelled):
        yield "labelled", labelled, "one folder: path/to/labelled"
    root = settings.get("artifact_root")
    if root is not None and not _text(root):
        yield "artifact_root", root, "an address, such as s3://bucket/mlflow, or null"
    folders = settings.get("folders")
    if folders is not None and not isinstance(folders, Mapping):
        yield "folders", folders, "a name and a place each"
        return
    for name, place in (folders or {}).items():
        if not _text(place):
            yield f"folders.{name}", place, "a folder: path/to/folder"


def _place(value: Any) -> bool:
    """A place, or one with what is to be done with its images; what exactly, its reader knows."""
    return _text(value) or (isinstance(value, Mapping) and _text(value.get("path")))


def _text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())
