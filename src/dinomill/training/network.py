"""What a student and a teacher are made of: a backbone and its DINO and iBOT heads."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

from dinomill.models import HeadConfig, ProjectionHead
from dinomill.models.backbones import Backbone
from dinomill.training.losses.prototypes import Prototypes

Part = TypeVar("Part", bound=nn.Module)


class Student(nn.Module):
    """A backbone and what is laid on it to learn; the parts that gradients are clipped by, and that checkpoints name.

    Args:
        backbone: What is handed on at the end.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def parts(self) -> dict[str, nn.Module]:
        """Backbone and heads by name, without absent ones."""
        return {name: part for name, part in self.named_children() if part is not None}


class Network(Student):
    """A backbone with DINO and iBOT heads.

    Args:
        backbone: Of any family.
        head: Shape of the heads.
        separate_heads: Whether masked patches have a head of their own (the long recipe) or share the DINO head's.
    """

    def __init__(self, backbone: Backbone, head: HeadConfig, *, separate_heads: bool) -> None:
        super().__init__(backbone)
        self.dino_head = ProjectionHead(backbone.embed_dim, head)
        self.ibot_head = ProjectionHead(backbone.embed_dim, head) if separate_heads else None

    @property
    def patch_head(self) -> ProjectionHead:
        """The head that masked patches go through."""
        return self.dino_head if self.ibot_head is None else self.ibot_head

    def project(self, class_tokens: Tensor, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Bottleneck features of class tokens [R, D] and of patches [M, D], in one pass where they share a head."""
        if self.ibot_head is None:
            both = self.dino_head.bottleneck(torch.cat([class_tokens, patches]))
            return both[: class_tokens.shape[0]], both[class_tokens.shape[0] :]
        return self.dino_head.bottleneck(class_tokens), self.ibot_head.bottleneck(patches)


class Regressor(Student):
    """A backbone with a projector to a teacher's class features, and one to its patches.

    Args:
        backbone: The student's.
        out_dim: Width of the teacher's features.
        hidden_dim: Of a hidden layer; 0: the projectors are linear.
    """

    def __init__(self, backbone: Backbone, out_dim: int, *, hidden_dim: int) -> None:
        super().__init__(backbone)
        self.class_projector = _projector(backbone.embed_dim, hidden_dim, out_dim)
        self.patch_projector = _projector(backbone.embed_dim, hidden_dim, out_dim)


def _projector(in_dim: int, hidden_dim: int, out_dim: int) -> nn.Sequential:
    if hidden_dim == 0:
        return nn.Sequential(nn.Linear(in_dim, out_dim))
    return nn.Sequential(nn.Linear(in_dim, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, out_dim))


def prototypes(head: ProjectionHead) -> Prototypes:
    """A head's last layer, for losses that take it in tiles."""
    return Prototypes(head.last_layer.weight_v, head.last_layer.weight_g)


def frozen_copy(part: Part) -> Part:
    """A copy of a network or a part of one, in evaluation mode, that takes no gradient."""
    return copy.deepcopy(part).requires_grad_(False).eval()
