"""Arrays in a safetensors file: nothing in it executes when it is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dinomill.errors import InputError


def read_tensors(path: Path) -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, str]]:
    """Its arrays, and what its header tells.

    Raises:
        InputError: When it cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} cannot be read.", found=str(error)) from None


def write_tensors(path: Path, arrays: Mapping[str, np.ndarray[Any, Any]], told: Mapping[str, str]) -> None:
    """Write arrays, and a header that tells something; the same gives the same bytes."""
    from safetensors.numpy import save

    data = save({name: np.ascontiguousarray(array) for name, array in arrays.items()}, metadata=dict(told))
    # What a header tells is written in another order every time (safetensors 0.8); archives are compared by their hash.
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[end:])
