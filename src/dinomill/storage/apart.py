"""What a stage reads may not lie where it writes: its results replace that folder whole."""

from __future__ import annotations

from pathlib import Path

from dinomill.errors import ConfigError
from dinomill.storage.typed import expanded


def lies_in(address: str | Path, folder: Path) -> bool:
    """Whether an address is a folder, or something in it, also by another path; what is no path never is."""
    if "://" in str(address):
        return False
    return expanded(address).resolve().is_relative_to(folder.resolve())


def overwritten(key: str, address: str | Path, folder: Path) -> ConfigError:
    """That a stage would write over what it reads."""
    return ConfigError(
        f"{key}: {address} lies in the folder that this stage writes: its own result would take its place.",
        found=f"the stage writes {folder}",
        action="copy it elsewhere, such as to data/01_raw, and name the copy",
    )


def require_apart(key: str, address: str | Path, folder: Path) -> None:
    """Refuse what a stage would write over.

    Args:
        key: That names the address.
        address: What the stage reads.
        folder: What it writes.

    Raises:
        ConfigError: When it lies in that folder.
    """
    if lies_in(address, folder):
        raise overwritten(key, address, folder)
