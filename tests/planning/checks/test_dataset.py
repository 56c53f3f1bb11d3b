from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from dinomill.handles import DatasetHandle
from dinomill.planning.checks import Request
from dinomill.planning.checks.dataset import check_dataset

Ask = Callable[..., Request]


def test_a_dataset_that_cannot_be_trained_on_is_refused_before_anything_runs(
    ask: Ask, root: Path, digits_dataset: DatasetHandle
) -> None:
    def found(*stages: str) -> list[tuple[str, str]]:
        return [(problem.key, problem.problem) for problem in check_dataset(ask(stages))]

    curated = Path(ask(("pretraining",)).folders["curated"])
    assert found("pretraining") == []  # it is not there yet: another check says so
    shutil.copytree(digits_dataset.folder, curated)
    shards = tuple(curated / path.relative_to(digits_dataset.folder) for path in digits_dataset.shards)
    manifest = curated / digits_dataset.manifest.name
    digits_dataset.model_copy(update={"folder": curated, "shards": shards, "manifest": manifest}).save()
    assert found("pretraining", "distillation") == []
    path = shards[0] if shards[0].is_absolute() else root / shards[0]
    path.unlink()
    ((key, sentence),) = found("pretraining", "distillation")  # once, although both read it
    assert (key, sentence) == ("folders.curated", f"The shard {shards[0]} is missing.")
    assert found("curation", "pretraining") == []  # it is made anew first
