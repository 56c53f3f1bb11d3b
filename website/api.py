"""The pages of the Python interface: what is public, by room; the texts are the docstrings' own (mkdocstrings)."""

from __future__ import annotations

ROOMS: dict[str, tuple[str, tuple[str, ...]]] = {
    "loading": ("Loading and features", (
        "dinomill.load", "dinomill.features.base", "dinomill.features.door", "dinomill.models.loading",
        "dinomill.models.weights",
    )),
    "predicting": ("Predicting", ("dinomill.serving.predictor",)),
    "embeddings": ("Files of embeddings", (
        "dinomill.embeddings", "dinomill.embeddings.file", "dinomill.embeddings.viewers",
    )),
    "images": ("Images and shards", (
        "dinomill.images.manifest", "dinomill.images.shards", "dinomill.images.decode", "dinomill.images.preprocess",
        "dinomill.images.loader", "dinomill.images.sampler",
    )),
    "networks": ("Networks", (
        "dinomill.models.vision_transformer", "dinomill.models.convnext", "dinomill.models.heads",
    )),
    "measuring": ("Measuring", (
        "dinomill.evaluation.statistics", "dinomill.vectors.knn", "dinomill.vectors.index", "dinomill.vectors.kmeans",
    )),
    "tracking": ("Runs and versions", (
        "dinomill.tracking.life", "dinomill.tracking.run", "dinomill.tracking.registry",
    )),
    "handles": ("Handles and errors", (
        "dinomill.handles", "dinomill.errors", "dinomill.config", "dinomill.layers.merged",
    )),
    "running": ("Running work", (
        "dinomill.execution.tasks", "dinomill.execution.launch", "dinomill.storage.atomic", "dinomill.storage.lock",
    )),
}  # fmt: skip


def pages() -> dict[str, str]:
    """The pages' texts by address."""
    made = {"reference/python/index.md": _index()}
    for name, (title, modules) in ROOMS.items():
        lines = [f"# {title}", "", *(line for module in modules for line in (f"::: {module}", ""))]
        made[f"reference/python/{name}.md"] = "\n".join(lines)
    return made


def _index() -> str:
    lines = [
        "# Python interface",
        "",
        "The library can be used without Kedro. `import dinomill` is cheap; torch and MLflow are imported when they "
        "are first needed.",
        "",
        "```python",
        "import dinomill",
        "",
        'model = dinomill.load("models:/dinomill-backbone@candidate")',
        "```",
        "",
    ]
    return "\n".join(lines + [f"- [{title}]({name}.md)" for name, (title, _) in ROOMS.items()]) + "\n"
