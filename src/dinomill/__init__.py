"""dinomill: raw images in, a served vision backbone out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinomill import no_telemetry

if TYPE_CHECKING:
    from dinomill.models.backbones import Backbone

__version__ = "0.1.0"

no_telemetry.switch_off()


def load(path_or_uri: str | Path, **keywords: Any) -> Backbone:
    """Load a backbone: an exported folder, ``models:/name@alias``, weights of DINOv2, DINOv3 or a ConvNeXt.

    See ``dinomill.models.load`` for the keywords and errors.
    """
    # torch takes seconds to import, and Kedro imports this package at every start.
    from dinomill.models.loading import load as load_model

    return load_model(path_or_uri, **keywords)
