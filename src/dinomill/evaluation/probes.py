"""The linear probes that were fitted to be measured, kept for whoever wants class scores: packaging does.

<output>/probes/handle.json             ProbesHandle
<output>/probes/<label>.safetensors     of teacher, students and the version in use: see ``features.probe``
"""

from __future__ import annotations

from pathlib import Path

from dinomill.evaluation.config import EvaluationConfig
from dinomill.evaluation.results import Results, Row
from dinomill.features.probe import Probe
from dinomill.handles import ProbesHandle
from dinomill.storage.hashing import hash_json

PROBES = "probes"
_MEASURE = "linear"
# Whatever may be packaged.
_KEPT = ("teacher", "student", "champion")


def write_probes(folder: Path, results: Results | None, config: EvaluationConfig) -> ProbesHandle:
    """Write the probe of every network that may be packaged.

    Args:
        folder: Where evaluation's results are being made.
        results: Of the labelled set; None: there is none.
        config: Where they will lie, and how the probes were fitted.
    """
    rows = () if results is None else results.rows
    rows = tuple(row for row in rows if row.network.kind in _KEPT and _classifier(row) is not None)
    place = folder / PROBES
    place.mkdir()
    for row in rows:
        assert results is not None, "rows are of results"
        _probe_of(row, results).save(place / f"{row.label}.safetensors")
    made_of = {row.label: row.network.identity for row in rows}
    data = None if results is None else results.data.sha256
    handle = ProbesHandle(
        folder=config.output / PROBES,
        made_of=hash_json([config.protocols.linear.model_dump(mode="json"), config.seed, data, made_of]),
        probes={row.network.identity: config.output / PROBES / f"{row.label}.safetensors" for row in rows},
        labelled=results is not None,
    )
    handle.save(place)
    return handle


def _classifier(row: Row) -> object | None:
    measured = row.measured.get(_MEASURE)
    return None if measured is None else measured.classifier


def _probe_of(row: Row, results: Results) -> Probe:
    measured = row.measured[_MEASURE]
    assert measured.classifier is not None, "asked for before"
    weight, bias = measured.classifier
    about = {
        "accuracy": round(row.figures[_MEASURE].value, 6),
        "scored_images": float(len(results.data.queries)),
        "learnt_images": float(len(results.data.bank)),
        **measured.chosen,
    }
    classes = results.data.classes[: len(bias)]  # the last ones may have no image to learn from
    return Probe(weight.T.float().numpy(), bias.float().numpy(), classes, about=about)
