"""Files of tensors: read so that nothing in them can execute; anything else is refused by what it is.

Readable are PyTorch files (zip archives, and the older plain form), safetensors, and either of them in shards beside an
index (``*.index.json``).
"""

from __future__ import annotations

import json
import pickle
import pickletools
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from dinomill.errors import InputError
from dinomill.models.foreign import GIVE_BACKBONE, GIVE_WEIGHTS, name_of_kind
from dinomill.models.made_from import read_record

INDEX_SUFFIX = ".index.json"
# Small tensors whose values say something about the model's shape: read even where shapes alone are asked for.
_TELLING = (".periods",)
# What a damaged or foreign file makes the readers raise.
_UNREADABLE = (SafetensorError, OSError, ValueError, KeyError, TypeError)


@dataclass(frozen=True)
class Contents:
    """What a file of tensors holds.

    Args:
        tensors: By name; those of nested mappings under dotted names.
        metadata: The text in a safetensors header; of our .pth files, where they come from.
        paths: The files, an index and its shards included.
    """

    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    paths: tuple[Path, ...]


def read_file(path: Path, *, shapes_only: bool = False) -> Contents:
    """Read a file of tensors.

    Args:
        path: A ``.pth``, ``.pt``, ``.bin``, ``.safetensors`` or ``.index.json`` file; by content, not by name.
        shapes_only: Give tensors without data, on the meta device, for what only looks at shapes.

    Raises:
        InputError: When it is missing, broken or something else; says what it is.
    """
    if not path.is_file():
        raise InputError(f"There is no {path}.", action="give the file of a backbone's weights")
    if path.name.endswith(INDEX_SUFFIX):
        return _read_shards(path, shapes_only)
    if _is_safetensors(path):
        return _read_safetensors(path, shapes_only)
    kind = name_of_kind(path)
    if kind is not None:
        raise InputError(
            f"{path} holds no weights that can be read.", found=kind, action=GIVE_WEIGHTS.get(kind, GIVE_BACKBONE)
        )
    if path.suffix == ".safetensors":  # torch.load would hand it on by its name
        if _is_pickle(path):
            raise InputError(
                f"{path} is no safetensors file, whatever its name says.",
                found="a PyTorch file",
                action="rename it, to end in .pth",
            )
        return _read_safetensors(path, shapes_only)  # which says what is wrong with it
    tensors = flatten(read_pickle_safely(path))
    return Contents(_shapes(tensors) if shapes_only else tensors, read_record(path), (path,))


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU.

    Raises:
        InputError: When the file is missing, cut off or of another kind.
    """
    if not path.is_file():
        raise InputError(f"There is no {path}.", action="give the file of a backbone's weights")
    kind = None if _is_safetensors(path) else name_of_kind(path)
    if kind is not None:
        raise InputError(f"{path} is not a safetensors file.", found=kind, action=GIVE_WEIGHTS.get(kind, GIVE_BACKBONE))
    try:
        return load_file(path)
    except _UNREADABLE as error:
        raise _incomplete(path, error) from None


def read_pickle_safely(path: Path) -> Mapping[str, Any]:
    """A PyTorch file's mapping, read so that nothing in it can execute.

    Raises:
        InputError: When the file is missing, broken, holds anything but tensors and plain containers, or is no mapping.
    """
    if not path.is_file():
        raise InputError(f"There is no {path}.", action="give the file of a backbone's weights")
    try:
        with warnings.catch_warnings():
            # A plain pickle is warned of before it is refused.
            warnings.simplefilter("ignore", UserWarning)
            checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise _refused_pickle(path, error) from None
    except (*_UNREADABLE, RuntimeError, EOFError, IndexError, AttributeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{path} cannot be read as a PyTorch file.", found=reason, action="copy or download it again"
        ) from None
    if not isinstance(checkpoint, Mapping):
        raise InputError(
            f"{path} holds no state dict.",
            found=type(checkpoint).__name__,
            expected="names and tensors",
            action="save the model's state_dict() alone, with torch.save, and give that file",
        )
    return checkpoint


def flatten(checkpoint: Mapping[Any, Any], prefix: str = "") -> dict[str, Tensor]:
    """The tensors of nested mappings, under dotted names; whatever else is in there is passed over."""
    tensors: dict[str, Tensor] = {}
    for name, value in checkpoint.items():
        if isinstance(value, Tensor):
            tensors[f"{prefix}{name}"] = value
        elif isinstance(value, Mapping):
            tensors |= flatten(value, f"{prefix}{name}.")
    return tensors


def _read_safetensors(path: Path, shapes_only: bool) -> Contents:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            if not shapes_only:
                return Contents(load_file(path), metadata, (path,))
            tensors = {}
            for name in file.keys():  # noqa: SIM118 (no mapping)
                if name.endswith(_TELLING):
                    tensors[name] = file.get_tensor(name)
                else:
                    tensors[name] = torch.empty(file.get_slice(name).get_shape(), device="meta")
    except _UNREADABLE as error:
        raise _incomplete(path, error) from None
    return Contents(tensors, metadata, (path,))


def _read_shards(index: Path, shapes_only: bool) -> Contents:
    try:
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = sorted(set(names.values()))
        inside = all(isinstance(name, str) and Path(name).name == name for name in files)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{index} is not an index of shards.",
            found=f"{type(error).__name__}: {error}",
            expected='{"weight_map": {tensor: file of the same folder}}',
            action="download it again, or give the file of the weights itself",
        ) from None
    if not inside:
        raise InputError(
            f"{index} names files outside of its folder.",
            found=", ".join(map(str, files[:3])),
            expected="names of files beside it",
            action="put all shards into its folder, and name them alone",
        )
    missing = [name for name in files if not (index.parent / name).is_file()]
    if missing:
        raise InputError(
            f"{len(missing)} of the {len(files)} shards that {index} names are missing.",
            found="no " + ", ".join(missing[:3]),
            action="download them into the same folder",
        )
    parts = [read_file(index.parent / name, shapes_only=shapes_only) for name in files]
    tensors = {name: tensor for part in parts for name, tensor in part.tensors.items()}
    absent = [name for name in names if name not in tensors]
    if absent:
        raise InputError(
            f"The shards of {index} lack tensors.",
            found=f"no {absent[0]!r}, {len(absent)} in all",
            action="download the shards again, all of one version",
        )
    return Contents(tensors, parts[0].metadata, (index, *(index.parent / name for name in files)))


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor if name.endswith(_TELLING) else tensor.to("meta") for name, tensor in tensors.items()}


def _is_safetensors(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(9)
    return len(head) == 9 and head[8:] == b"{" and int.from_bytes(head[:8], "little") < 2**27


def _is_pickle(path: Path) -> bool:
    """Whether it is a PyTorch file after all, whatever its name says: a zip archive, or the older plain form."""
    with path.open("rb") as file:
        return file.read(4)[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def _incomplete(path: Path, error: Exception) -> InputError:
    return InputError(f"{path} is not a complete safetensors file.", found=str(error), action="copy or export it again")


def _refused_pickle(path: Path, error: Exception) -> InputError:
    objects = sorted(set(_objects(path)))
    if objects:
        shown = ", ".join(objects[:3]) + (f" and {len(objects) - 3} more" if len(objects) > 3 else "")
        return InputError(
            f"{path} holds more than tensors, and is not loaded.",
            found=f"a checkpoint with a pickled object: {shown}",
            expected="a state dict: names and tensors; objects could run code when loaded",
            action="save the model's state_dict() alone, with the program that wrote the file, and give that file",
        )
    del error  # its text advises to load it all the same
    if not _is_pickle(path):
        return InputError(
            f"{path} holds no weights that can be read.",
            found="bytes of no known format",
            expected="a state dict (names and tensors) in a PyTorch or safetensors file",
            action=f"if it was one, download or copy it again; else {GIVE_BACKBONE}",
        )
    return InputError(
        f"{path} holds more than tensors, or is not a PyTorch file, and is not loaded.",
        expected="a state dict: names and tensors",
        action="save the model's state_dict() alone, with torch.save, and give that file",
    )


def _objects(path: Path) -> Iterator[str]:
    """The classes and functions that a file's pickles name, those of plain tensors and containers left out."""
    try:
        if zipfile.is_zipfile(path):
            yield from torch.serialization.get_unsafe_globals_in_checkpoint(path)
            return
        with path.open("rb") as file:
            for _ in range(4):  # the older form: a magic number, a version, the machine, then the object
                yield from _globals(file)
    except Exception:  # a broken pickle fails in any way; there is nothing more to name
        return


def _globals(file: Any) -> Iterator[str]:
    texts: list[str] = []
    for opcode, argument, _ in pickletools.genops(file):
        if "UNICODE" in opcode.name:
            texts.append(str(argument))
        elif opcode.name in ("GLOBAL", "STACK_GLOBAL"):
            module, name = str(argument).split(" ", 1) if opcode.name == "GLOBAL" else texts[-2:]
            if module.split(".")[0] not in ("torch", "collections") or module.startswith("torch.nn.modules"):
                yield f"{module}.{name}"
