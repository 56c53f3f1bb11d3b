"""One door for every kind of backbone: ours, official DINOv2, DINOv3 and ConvNeXt, Hugging Face, timm, the registry."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from dinomill.errors import InputError
from dinomill.models import convnext_names, huggingface, official
from dinomill.models.address import locate
from dinomill.models.backbones import Backbone
from dinomill.models.beside import note_of, read_note
from dinomill.models.files import Contents, read_file
from dinomill.models.foreign import name_of_folder
from dinomill.models.infer import infer_config
from dinomill.models.kinds import ModelConfig, parse_model
from dinomill.models.prefixes import find_backbone
from dinomill.models.weights import CONFIG_NAME, MODEL, WEIGHTS_NAME, check_shape, from_tensors, is_export, read_config

OURS = "dinomill"


@dataclass(frozen=True)
class Weights:
    """Weights that were recognised, with or without their data.

    Args:
        place: The file or folder.
        family: For people: "dinomill", "DINOv3", "DINOv2 (Hugging Face)", …
        config: The shape that they say.
        tensors: Under the names used here; on the meta device when only shapes were asked for.
        metadata: Of a safetensors header.
        paths: The files that hold the tensors.
    """

    place: Path
    family: str
    config: ModelConfig
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    paths: tuple[Path, ...]

    def build(self) -> Backbone:
        """The network, in evaluation mode, in fp32, on the CPU."""
        return from_tensors(self.config, self.tensors, where=str(self.place))


def load(path_or_uri: str | Path, **keywords: Any) -> Backbone:
    """Load a backbone, in evaluation mode, in fp32, on the CPU.

    Args:
        path_or_uri: A folder written by pretraining or distillation (or its ``model.safetensors``); a state dict or
            training checkpoint of the official DINOv2, DINOv3 or ConvNeXt code, or of timm (``.pth``, ``.pt``,
            ``.safetensors``); a folder or file of transformers; or ``models:/name@alias`` of the registry.
        **keywords: What some state dicts cannot say: ``num_heads``, ``interpolate_offset``,
            ``interpolate_antialias``. Whatever the weights do say is checked, and refused where it contradicts them.

    Returns:
        A ``torch.nn.Module`` with ``forward_features`` and ``get_intermediate_layers``.

    Raises:
        InputError: When nothing is there, it is not such a backbone, or a keyword contradicts it.
    """
    return read_weights(locate(path_or_uri), **keywords).build()


def read_weights(place: Path, *, shapes_only: bool = False, **keywords: Any) -> Weights:
    """Recognise the weights in a file or folder, and convert them wholly.

    Args:
        place: As ``locate`` gives it.
        shapes_only: Read no data: for what only wants to know the shape. The tensors then lie on the meta device.
        **keywords: As in ``load``.

    Raises:
        InputError: Says what it is instead, or which tensor is missing, left over or of another shape.
    """
    if place.name == WEIGHTS_NAME and is_export(place.parent):
        place = place.parent
    if place.is_dir() and is_export(place):
        return _ours(place, shapes_only, keywords)
    file = _file_in(place) if place.is_dir() else place
    contents = read_file(file, shapes_only=shapes_only)
    if MODEL in contents.metadata:
        return _described(file, contents, keywords)
    tensors = find_backbone(contents.tensors, str(place))
    note = read_note(file)
    if MODEL in note:
        return _noted(file, contents, tensors, note, keywords)
    if convnext_names.is_convnext(tensors):
        network = convnext_names.recognise(tensors, huggingface.read_config(file.parent), str(place))
        _agree(keywords, network.config, str(place))
        check_shape(network.config, network.tensors, str(place))
        return Weights(place, network.family, network.config, network.tensors, contents.metadata, contents.paths)
    if huggingface.is_huggingface(tensors):
        found = huggingface.recognise(tensors, huggingface.read_config(file.parent), str(place))
    else:
        found = official.recognise(tensors, str(place))
    config = infer_config(found, str(place), **keywords)
    check_shape(config, found.tensors, str(place))
    return Weights(place, found.family, config, found.tensors, contents.metadata, contents.paths)


def _ours(folder: Path, shapes_only: bool, keywords: Mapping[str, Any]) -> Weights:
    config = parse_model(read_config(folder).get(MODEL, {}), where=str(folder / CONFIG_NAME))
    _agree(keywords, config, str(folder))
    contents = read_file(folder / WEIGHTS_NAME, shapes_only=shapes_only)
    check_shape(config, contents.tensors, str(folder / WEIGHTS_NAME))
    return Weights(folder, OURS, config, contents.tensors, contents.metadata, contents.paths)


def _described(file: Path, contents: Contents, keywords: Mapping[str, Any]) -> Weights:
    """A single exported file, with its configuration in the header."""
    try:
        described = json.loads(contents.metadata[MODEL])
    except ValueError as error:
        raise InputError(f"The header of {file} describes no model.", found=str(error)) from None
    config = parse_model(described, where=str(file))
    _agree(keywords, config, str(file))
    check_shape(config, contents.tensors, str(file))
    return Weights(file, OURS, config, contents.tensors, contents.metadata, contents.paths)


def _noted(
    file: Path, contents: Contents, tensors: Mapping[str, Tensor], note: Mapping[str, Any], keywords: Mapping[str, Any]
) -> Weights:
    """An exported file in somebody else's names, with the configuration in the note beside it."""
    where = str(note_of(file))
    if note.get("bytes") != file.stat().st_size:
        raise InputError(
            f"{where} describes another file than {file.name}.",
            found=f"{file.stat().st_size:,} bytes",
            expected=f"{note.get('bytes'):,} bytes" if isinstance(note.get("bytes"), int) else "its size in `bytes`",
            action="copy the note with its file, or remove it",
        )
    config = parse_model(note[MODEL], where=where)
    _agree(keywords, config, where)
    if convnext_names.is_convnext(tensors):
        named: Mapping[str, Tensor] = convnext_names.recognise(tensors, None, str(file)).tensors
    elif huggingface.is_huggingface(tensors):
        named = huggingface.recognise(tensors, huggingface.read_config(file.parent), str(file)).tensors
    else:
        named = official.recognise(tensors, str(file)).tensors
    check_shape(config, named, str(file))
    told = {key: value if isinstance(value, str) else json.dumps(value) for key, value in note.items()}
    return Weights(file, OURS, config, named, told, contents.paths)


def _file_in(folder: Path) -> Path:
    """The file of weights of a Hugging Face folder, or the only one there is."""
    for name in huggingface.WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    found = sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".pth", ".pt", ".bin"))
    if len(found) == 1:
        return found[0]
    if (folder / CONFIG_NAME).is_file() and huggingface.read_config(folder) is None:
        read_config(folder)  # an export of another version, or a broken one: says so
    raise InputError(
        f"The folder {folder} holds {'several files of weights' if found else 'no weights'}.",
        found=name_of_folder(folder),
        expected=f"an exported backbone ({CONFIG_NAME}, {WEIGHTS_NAME}) or a Hugging Face folder of DINOv2 or DINOv3",
        action="give one of the files" if found else "give the folder or file of a backbone",
    )


def _agree(keywords: Mapping[str, Any], config: ModelConfig, where: str) -> None:
    wrong = {key: value for key, value in keywords.items() if value is not None and getattr(config, key, None) != value}
    if wrong:
        raise InputError(
            f"{where} has a configuration of its own, which these arguments contradict.",
            found=", ".join(
                f"{key}={value!r} ({getattr(config, key, 'no such key')!r})" for key, value in wrong.items()
            ),
            action="leave the arguments out: they are for files that cannot say them",
        )
