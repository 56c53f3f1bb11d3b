"""What people call the rows of a table of scores."""

from __future__ import annotations

from dinomill.scores import ModelScore

_KINDS = {
    "pixels": "raw pixels",
    "random": "random weights",
    "start": "starting weights",
    "champion": "present champion",
}


def display_name(score: ModelScore) -> str:
    """What people call a row."""
    if score.kind in _KINDS:
        return _KINDS[score.kind]
    if score.kind == "reference":
        return score.model
    return score.kind if score.model == score.kind else f"{score.kind} {score.model}"


def readable(model: str) -> str:
    """A row's label in evaluation's files, for people."""
    return model.replace("-", " ", 1)
