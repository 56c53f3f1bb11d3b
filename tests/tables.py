"""Tables of scores for tests of whoever reads them."""

from __future__ import annotations

from dinomill.scores import Figure, Measure, ModelScore

MEASURES = (
    Measure(name="knn", title="kNN", by="neighbours"),
    Measure(name="linear", title="linear probe", by="a linear probe"),
)


def row(model: str, kind: str, *, parameters: int = 1000, reach: float = 0.0, **values: float) -> ModelScore:
    """A row whose intervals reach so far to either side."""
    scores = {name: Figure(value=value, low=value - reach, high=value + reach) for name, value in values.items()}
    return ModelScore(model=model, kind=kind, parameters=parameters, scores=scores)
