"""Whether the curated dataset that is there can be trained on: its shards are all there, long enough, and readable."""

from __future__ import annotations

from collections.abc import Iterator

from dinomill.errors import DinomillError
from dinomill.planning.checks.problems import Problem
from dinomill.planning.checks.request import Request


def check_dataset(request: Request) -> Iterator[Problem]:
    """For the trainings that will run; once where both read the same shards."""
    dataset = request.dataset
    if dataset is None:
        return
    seen: set[str | None] = set()
    for stage in ("pretraining", "distillation"):
        config = getattr(request, stage)
        if not request.runs(stage) or config is None:
            continue
        loader = config.runtime.loader
        if loader.shards in seen:
            continue
        seen.add(loader.shards)
        from dinomill.images.whole import check_whole  # reads images: not needed at every start

        try:
            check_whole(dataset, loader)
        except DinomillError as error:
            yield Problem.of(error, f"{stage}.runtime.loader.shards" if loader.shards else "folders.curated")
