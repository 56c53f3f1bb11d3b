"""Pictures that protocols drew of a labelled set: queries beside their truth and what every network makes of them."""

from __future__ import annotations

import base64
from dataclasses import dataclass

from dinomill.handles import EvaluationHandle

# As evaluation names them (evaluation.protocols.segmentation, depth), with what is said of them.
_DRAWN = {
    "segmentation": "Segmentation: what the linear layer calls every pixel; light grey is not labelled",
    "depth": "Depth: yellow is near, blue is far, on the scale of each row's truth; light grey is not measured",
}


@dataclass(frozen=True)
class Overlay:
    """One figure of several queries."""

    caption: str
    uri: str


def view_overlays(evaluation: EvaluationHandle, name: str) -> tuple[Overlay, ...]:
    """The pictures of a further labelled set, as they lie in its folder; none where nothing was drawn.

    Args:
        evaluation: The stage's handle.
        name: Of the set.
    """
    found = []
    for drawn, caption in _DRAWN.items():
        path = evaluation.folder / "sets" / name / "plots" / f"{drawn}.svg"
        if path.is_file():
            data = base64.b64encode(path.read_bytes()).decode("ascii")
            found.append(Overlay(caption, f"data:image/svg+xml;base64,{data}"))
    return tuple(found)
