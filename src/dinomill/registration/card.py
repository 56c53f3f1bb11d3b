"""The text that a registered version shows: scores, gate, lineage and how to use it, in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dinomill.handles import DatasetHandle, EvaluationHandle, ModelHandle
from dinomill.licences import licence_in_words
from dinomill.registration.config import CANDIDATE, CHAMPION
from dinomill.registration.gate import Check
from dinomill.scores import Figure, Measure, ScoreTable

_FAILED = (
    "**FAILED** means: this version is registered and can be loaded, and the alias `champion` was not moved to it. "
    "What is required, and how to ease it: `registration.gate` in `registration/parameters.yml` of the environment."
)


def model_summary(name: str) -> str:
    """What the model's page says above its versions."""
    return (
        "An image backbone trained without labels by self-distillation. "
        f"`models:/{name}@champion` is the version in use, `models:/{name}@candidate` the newest; "
        "each version's page shows its scores, its gate and the data that it comes from."
    )


def version_card(
    name: str,
    model: ModelHandle,
    curated: DatasetHandle,
    evaluation: EvaluationHandle,
    checks: Sequence[Check],
    tags: Mapping[str, str],
) -> str:
    """What the version's page says.

    Args:
        name: Of the registered model.
        model: The registered network.
        curated: What it was trained on.
        evaluation: The table of scores.
        checks: The gate's.
        tags: The version's, for hashes.
    """
    parts = [
        f"{_headline(model, evaluation)}{model.parameters / 1e6:.2f} M parameters, {model.embed_dim}-d embeddings of "
        f"{model.image_size} px images.",
        _helped(model, evaluation),
        _scores(model, evaluation),
        "### Gate\n\n" + "\n".join(f"- **{check.word}**: {check.sentence}" for check in checks),
        "" if all(check.passed for check in checks) else _FAILED,
        _lineage(model, curated, tags),
        _use(f"models:/{name}@{CHAMPION if all(check.passed for check in checks) else CANDIDATE}"),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _headline(model: ModelHandle, evaluation: EvaluationHandle) -> str:
    """What lists of versions show of the card."""
    for score in evaluation.scores:
        if score.model == model.name and score.kind in ("teacher", "student"):
            figures = (f"{one.title} {one.show(score.value(one.name))}" for one in evaluation.measures)
            return f"{model.name}: {', '.join(figures)}; "
    return f"{model.name}: "


def _helped(model: ModelHandle, evaluation: EvaluationHandle) -> str:
    """What training brought: against the weights it started from, and where it did not, against the pixels."""
    sentences = [evaluation.helped()]
    if any(score.model == model.name and score.kind == "student" for score in evaluation.scores):
        sentences.append(evaluation.helped(model.name))
    sentences.append(evaluation.behind_pixels())
    return " ".join(sentence for sentence in sentences if sentence)


def _scores(model: ModelHandle, evaluation: EvaluationHandle) -> str:
    return "\n\n".join(
        f"### Scores{'' if name is None else f' on {name}'}\n\n{_table(model, table)}"
        for name, table in evaluation.tables().items()
    )


def _table(model: ModelHandle, table: ScoreTable) -> str:
    heads = [one.head for one in table.measures]
    classes = f", {len(table.classes)} classes" if table.classes else ""
    unit = "% right" if table.classes else "per cent, unless said" if table.measures[0].percent else "units as said"
    rows = [
        f"{table.query_images:,} query images, {table.bank_images:,} in the bank{classes}; {unit}, with its "
        "confidence interval.",
        "",
        "| " + " | ".join(["model", "kind", "parameters", *heads]) + " |",
        "|---|---|--:|" + "--:|" * len(heads),
    ]
    for score in table.scores:
        mark = "**" if score.model == model.name and score.kind in ("teacher", "student") else ""
        cells = (
            f"{mark}{score.model}{mark}",
            score.kind,
            f"{score.parameters / 1e6:.2f} M" if score.parameters else "–",
            *(_interval(one, score.scores[one.name]) for one in table.measures),
        )
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _interval(measure: Measure, figure: Figure) -> str:
    return f"{measure.bare(figure.value)} {figure.reach(measure)}".rstrip()


def _lineage(model: ModelHandle, curated: DatasetHandle, tags: Mapping[str, str]) -> str:
    rows = {
        "weights": f"`{model.weights_sha256}`",
        "licence": _licence(tags.get("licence")),
        "made": model.origin,
        "distilled from": f"`{model.teacher_sha256}`" if model.teacher_sha256 else None,
        "started from": f"`{model.initial}`, content `{model.initial_sha256}`" if model.initial else None,
        "trained for": f"{model.steps:,} steps, {model.images_seen:,} images",
        "dataset": f"`{model.dataset_sha256}`",
        "curated": f"{curated.images:,} images kept of {curated.pool_images:,} looked at",
        "pool": ", ".join(f"`{source}`" for source in curated.sources),
        "git commit": f"`{tags['git_commit']}`" if "git_commit" in tags else None,
        "training run": f"`{tags['training_run']}`" if "training_run" in tags else None,
        "made of": f"`{model.made_of}`, the hash of its settings and its data",
        "in DVC": _in_dvc(tags),
    }
    lines = [f"| {key} | {value} |" for key, value in rows.items() if value]
    return "\n".join(["### Lineage", "", "| | |", "|---|---|", *lines])


def _in_dvc(tags: Mapping[str, str]) -> str | None:
    """DVC's names of the folders, by which they are found again: ``git log -S`` finds the lock that has them."""
    names = {"dvc_curated": "dataset", "dvc_model": "weights", "dvc_evaluation": "evaluation"}
    found = [f"{name} `{tags[tag]}`" for tag, name in names.items() if tag in tags]
    if not found:
        return None
    remote = f"; remote `{tags['dvc_remote']}`" if "dvc_remote" in tags else ""
    return ", ".join(found) + remote + ". `git log -S HASH -- dvc.lock conf` finds the commit with it"


def _licence(licence: str | None) -> str:
    """As people are told it; an unknown one stands out."""
    told: str = licence_in_words(licence)
    return told.replace("unknown", "**unknown**", 1) if told.startswith("unknown") else told


def _use(address: str) -> str:
    return (
        "### Use\n\n```python\n"
        "import dinomill\n"
        f'model = dinomill.load("{address}")  # a torch.nn.Module\n'
        'tokens = model.forward_features(images)["x_norm_clstoken"]  # [B, D]\n\n'
        "import mlflow, pandas as pd\n"
        f'served = mlflow.pyfunc.load_model("{address}")\n'
        'embeddings = served.predict(pd.DataFrame({"image": [open("a.jpg", "rb").read()]}))\n'
        "```"
    )
