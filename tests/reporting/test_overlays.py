"""Pictures of further labelled sets on the page."""

from __future__ import annotations

import base64
from pathlib import Path

from dinomill.handles import EvaluationHandle
from dinomill.reporting.overlays import view_overlays
from dinomill.reporting.scores import view_sets
from dinomill.scores import Figure, Measure, ModelScore, ScoreTable


def test_what_a_protocol_drew_is_shown_with_its_set(tmp_path: Path) -> None:
    plots = tmp_path / "sets" / "stamps" / "plots"
    plots.mkdir(parents=True)
    (plots / "segmentation.svg").write_text("<svg/>")
    (plots / "scores.svg").write_text("<svg/>")
    score = ModelScore(
        model="teacher", kind="teacher", parameters=1, scores={"miou": Figure(value=0.5, low=0.4, high=0.6)}
    )
    table = ScoreTable(scores=(score,), measures=(Measure(name="miou", title="mIoU"),), classes=("a", "b"))
    handle = EvaluationHandle(
        folder=tmp_path,
        made_of="0" * 64,
        metrics=tmp_path / "metrics.json",
        sets={"stamps": table, "others": table},
    )
    (overlay,) = view_overlays(handle, "stamps")
    assert overlay.caption.startswith("Segmentation")
    assert base64.b64decode(overlay.uri.partition(",")[2]) == b"<svg/>"
    views = {view.name: view for view in view_sets(handle)}
    assert views["stamps"].overlays == (overlay,) and views["others"].overlays == ()
