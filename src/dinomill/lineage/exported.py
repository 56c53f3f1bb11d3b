"""Exported files: what they say of themselves, and which networks and versions they are."""

from __future__ import annotations

from pathlib import Path

from dinomill.errors import DinomillError
from dinomill.lineage.thread import Kind, Thing, Thread

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".pt2", ".onnx", ".xml")


def find_exported(thread: Thread, path: Path) -> list[Thing]:
    """The version that a file of weights, a program or an exported folder is of; else the network.

    It is found by the hash of the weights, which an export says of what it was made from: names and numbers of versions
    are given again in other registries.

    Args:
        thread: What is known.
        path: A file or folder.
    """
    weights, registered = _weights_of(path)
    network = thread.things.get(f"{Kind.NETWORK}:{weights}")
    if network is None:
        return []
    network.facts["asked by"] = path.as_posix()
    versions = [below for below, _ in thread.below(network) if below.kind is Kind.VERSION]
    return [one for one in versions if one.id == registered] or versions[-1:] or [network]


def of_unknown_weights(path: Path) -> str | None:
    """What a file says of weights that nothing here knows; None where it is no export."""
    weights, registered = _weights_of(path)
    if weights is None:
        return None
    return f"{path}, of weights {weights[:12]}…" + (f", registered elsewhere as {registered}" if registered else "")


def _weights_of(path: Path) -> tuple[str | None, str | None]:
    """The hash of the weights that a file was made from, or of the file itself; the version that it names."""
    if path.suffix not in SUFFIXES and not (path / "config.json").is_file():
        return None, None
    from dinomill.features import describe

    try:
        found = describe(path)
    except DinomillError:
        return None, None
    told = found.made_from
    return (found.weights_sha256, None) if told is None else (told.weights_sha256, told.registered)
