"""Where a model lies: every address becomes a path once, here; `models:/name@alias` may move between two looks."""

from __future__ import annotations

from pathlib import Path

from dinomill.errors import InputError
from dinomill.storage.typed import expanded, is_there
from dinomill.storage.writable import printable

REGISTRY = "models:/"


def is_registered(address: str | Path) -> bool:
    """Whether an address names a model of the registry."""
    return str(address).startswith(REGISTRY)


def locate(address: str | Path) -> Path:
    """The local file or folder of an address; a registered model is downloaded, unless it lies on this machine.

    Raises:
        InputError: When nothing is there.
    """
    if is_registered(address):
        from dinomill.tracking import download

        return Path(download(str(address)))
    if not str(address).strip():
        raise InputError(
            "The address of the weights is empty.",
            expected="a file, a folder, or models:/name@alias",
            action="give one; a variable of the shell may not be set",
        )
    scheme = str(address).partition("://")[0] if "://" in str(address) else None
    if scheme:
        raise InputError(
            f"{address} is not on this machine, and weights are not fetched from {scheme}://.",
            action="download it first (`aws s3 cp`, `curl`), and give the file",
        )
    path = expanded(address)
    if not is_there(path):
        raise InputError(
            f"There is no {printable(path)}.",
            expected="a folder of an exported backbone or of Hugging Face, a .pth or .safetensors file, or "
            "models:/name@alias; for a teacher and in evaluation also efficientnet-lite0, an .onnx, .xml or .pt2 file",
            action="check the path, or run the stage that writes it",
        )
    return path


def absolute(address: str | Path) -> str:
    """An address that means the same from every working directory."""
    return str(address) if is_registered(address) else str(expanded(address).absolute())
