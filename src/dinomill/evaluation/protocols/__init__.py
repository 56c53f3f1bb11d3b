"""The open list of what can be measured on frozen features.

A protocol is a module of this folder with a subclass of ``base.Protocol``, its configuration in ``config`` (a field of
``ProtocolsConfig`` by the protocol's name), and a line in ``PROTOCOLS``. Tables, plots, gates and pages follow what it
says of its measures; nothing else has to be touched.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dinomill.evaluation.protocols.base import Protocol
    from dinomill.evaluation.protocols.config import ProtocolsConfig

# name: where its class lies. Imported when it is measured: what Kedro loads at every start has no torch.
PROTOCOLS = {
    "knn": "dinomill.evaluation.protocols.knn.Knn",
    "linear": "dinomill.evaluation.protocols.linear.Linear",
    "linear_grid": "dinomill.evaluation.protocols.linear_grid.LinearGrid",
    "few_shot": "dinomill.evaluation.protocols.few_shot.FewShot",
    "cost": "dinomill.evaluation.protocols.cost.Cost",
    "segmentation": "dinomill.evaluation.protocols.segmentation.Segmentation",
    "depth": "dinomill.evaluation.protocols.depth.Depth",
    "retrieval": "dinomill.evaluation.protocols.retrieval.Retrieval",
    "copies": "dinomill.evaluation.protocols.copies.Copies",
    "robustness": "dinomill.evaluation.protocols.robustness.Robustness",
}


def build(name: str, config: ProtocolsConfig) -> Protocol[Any, Any]:
    """The protocol of a name, with its configuration."""
    module, _, kind = PROTOCOLS[name].rpartition(".")
    found: Protocol[Any, Any] = getattr(importlib.import_module(module), kind)(getattr(config, name))
    return found
