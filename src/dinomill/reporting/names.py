"""What people call the rows of a table of scores."""

from __future__ import annotations

from dinomill.scores import ModelScore, ScoreTable

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


def whose_size(table: ScoreTable) -> str:
    """Of which network the random one has the shape, as it is said below a table; empty where there is none.

    It is of the teacher's, or of the student's where another teacher taught, and students of other shapes stand in the
    same table: what they have over random weights is not what their own shape is worth without training.
    """
    random = table.score("random")
    if random is None:
        return ""
    alike = [row for row in table.scores if row.kind in ("teacher", "student", "model")]
    whose = next((f" of the {display_name(row)}'s shape" for row in alike if row.parameters == random.parameters), "")
    others = [display_name(row) for row in alike if row.parameters != random.parameters]
    size = f"Random weights are those of an untrained network{whose}, {random.parameters / 1e6:.2f} M parameters"
    if not others:
        return f"{size}."
    return f"{size}; {', '.join(others)} {'has' if len(others) == 1 else 'have'} another shape."


def readable(model: str) -> str:
    """A row's label in evaluation's files, for people."""
    return model.replace("-", " ", 1)
