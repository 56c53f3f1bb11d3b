"""Weights that a training is given: a teacher's, or those that it starts from."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import Tensor, nn

from dinomill.errors import InputError
from dinomill.handles import HEADS_NAME
from dinomill.models import HeadConfig, VisionTransformer, VisionTransformerConfig, load, load_backbone
from dinomill.models.position import resize_positions
from dinomill.models.weights import WEIGHTS_NAME, check_fit, from_tensors, read_safetensors
from dinomill.storage.hashing import hash_file
from dinomill.training.network import Network
from dinomill.training.starting import refuse_contradictions

log = logging.getLogger(__name__)


def has_prototypes(path: Path) -> bool:
    """Whether a file of heads holds DINO's, which a distillation can learn from; its header is read."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return any(name.startswith("dino_head.") for name in file.keys())  # noqa: SIM118 (no dictionary)


def require_same(address: str, found: str, expected: str | None, what: str = "weights") -> None:
    """Refuse another teacher than a run began with.

    Args:
        address: Where it lies.
        found: Hash of what lies there now.
        expected: Hash of what the run began with; None: nobody knows.
        what: Which part of it.

    Raises:
        InputError: With both hashes.
    """
    if expected is not None and found != expected:
        raise InputError(
            f"The teacher {address} is not the one that this run began with.",
            found=f"{what} of sha256 {found}",
            expected=expected,
            action="put the file back that the run began with, or run the stage again from the beginning",
        )


def load_teacher(folder: Path, *, sha256: str | None = None, heads_sha256: str | None = None) -> Network:
    """An exported teacher with its heads.

    Args:
        folder: Of the export.
        sha256: Of the weights that a run began with.
        heads_sha256: Of the heads.

    Raises:
        InputError: When it has no heads, for a backbone alone does not say what the students should learn, or is
            another one.
    """
    path = folder / HEADS_NAME
    if not path.is_file() or not has_prototypes(path):
        raise InputError(
            f"The teacher in {folder} has no heads to distil from.",
            found=f"no {HEADS_NAME} with a DINO head",
            expected="a folder that the pretraining stage wrote",
            action="set distillation.objective to clusters or regression, which learn from features alone",
        )
    if sha256 is not None:
        require_same(str(folder), hash_file(folder / WEIGHTS_NAME), sha256)
    if heads_sha256 is not None:
        require_same(str(folder), hash_file(path), heads_sha256, "heads")
    tensors = read_safetensors(path)
    separate = any(name.startswith("ibot_head.") for name in tensors)
    hidden, _ = tensors["dino_head.mlp.0.weight"].shape
    prototypes, bottleneck = tensors["dino_head.last_layer.weight_v"].shape
    head = HeadConfig(hidden_dim=hidden, bottleneck_dim=bottleneck, prototypes=prototypes)
    network = Network(load_backbone(folder), head, separate_heads=separate)
    heads = _heads(network)
    check_fit(heads, tensors, str(path))
    heads.load_state_dict(tensors)
    return network


def starting_backbone(model: VisionTransformerConfig, address: str) -> VisionTransformer:
    """The weights at an address as a backbone of this configuration; the table of positions may be resized.

    Raises:
        ConfigError: When the configuration contradicts the weights.
    """
    source = load(address)
    if not isinstance(source, VisionTransformer):  # said before, in words for people, by ``starting_weights``
        raise InputError(f"{address} is no vision transformer, and only these are pretrained.")
    refuse_contradictions(model, VisionTransformerConfig.model_fields, source.config, address=address)
    tensors = source.state_dict()
    if source.pos_embed is not None and model.grid != source.config.grid:
        log.info("The position table of %s is resized to %d x %d patches.", address, model.grid, model.grid)
        tensors["pos_embed"] = _resized(source.pos_embed, model)
    return from_tensors(model, tensors, where=address)


def start_heads_from(network: Network, address: str) -> None:
    """Take the heads over too, where the export has them in the same shape; official files have none."""
    file = Path(address) / HEADS_NAME
    if not file.is_file() or not has_prototypes(file):
        return
    heads, tensors = _heads(network), read_safetensors(file)
    if {name: t.shape for name, t in heads.state_dict().items()} == {name: t.shape for name, t in tensors.items()}:
        heads.load_state_dict(tensors)
    else:
        log.warning("The heads of %s have another shape than the configured ones, which start afresh.", address)


def _heads(network: Network) -> nn.ModuleDict:
    return nn.ModuleDict({name: part for name, part in network.parts().items() if name != "backbone"})


def _resized(table: Tensor, config: VisionTransformerConfig) -> Tensor:
    """A table of positions ``[1, 1 + N, D]`` for the grid of another configuration."""
    patches = resize_positions(
        table[0, 1:],
        (config.grid, config.grid),
        offset=config.interpolate_offset,
        antialias=config.interpolate_antialias,
    )
    return torch.cat([table[:, :1], patches[None]], dim=1).detach()
