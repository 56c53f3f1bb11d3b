"""The text that a registered version shows: what its model is, its gate, its lineage and how to use it, in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dinomill.handles import DatasetHandle, EvaluationHandle, ModelHandle
from dinomill.registration.card_of import licence_told, model_card
from dinomill.registration.card_parts import Fact, Section, markdown, safe, section_markdown
from dinomill.registration.config import AliasesConfig
from dinomill.registration.energy import Spent
from dinomill.registration.gate import Check

_FAILED = (
    "**FAILED** means: this version is registered and can be loaded, and the alias `champion` was not moved to it. "
    "What is required, and how to ease it: `registration.gate` in `registration/parameters.yml` of the environment."
)
# Tags of a version that hold DVC's names of folders, by which they are found again.
_IN_DVC = {"dvc_curated": "dataset", "dvc_model": "weights", "dvc_evaluation": "evaluation"}


def model_summary(name: str, aliases: AliasesConfig) -> str:
    """What the model's page says above its versions."""
    return (
        "An image backbone trained without labels by self-distillation. "
        f"`models:/{name}@{aliases.champion}` is the version in use, `models:/{name}@{aliases.candidate}` the newest; "
        "each version's page shows its scores, its gate and the data that it comes from."
    )


def version_card(
    name: str,
    model: ModelHandle,
    curated: DatasetHandle,
    evaluation: EvaluationHandle,
    checks: Sequence[Check],
    tags: Mapping[str, str],
    cost: Spent | None = None,
    aliases: AliasesConfig | None = None,
) -> str:
    """What the version's page says: the model's card, and what belongs to the version alone.

    Args:
        name: Of the registered model.
        model: The registered network.
        curated: What it was trained on.
        evaluation: The table of scores.
        checks: The gate's.
        tags: The version's, for hashes.
        cost: What the run took that trained it, where the text may differ from run to run.
        aliases: What versions are called; None: the usual names.
    """
    named = aliases or AliasesConfig()
    card = model_card(model, curated, evaluation, cost=cost)
    parts = [
        markdown(card).rstrip(),
        "### Gate\n\n" + "\n".join(f"- **{check.word}**: {safe(check.sentence)}" for check in checks),
        "" if all(check.passed for check in checks) else _FAILED,
        section_markdown(_lineage(model, tags)),
        _use(f"models:/{name}@{named.champion if all(check.passed for check in checks) else named.candidate}"),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _lineage(model: ModelHandle, tags: Mapping[str, str]) -> Section:
    facts = [
        Fact("weights", model.weights_sha256, code=True),
        Fact("licence", licence_told(tags.get("licence"))),
        Fact("distilled from", model.teacher_sha256 or "", code=True),
        Fact("started from", f"{model.initial}, content {model.initial_sha256}" if model.initial else "", code=True),
        Fact("dataset", model.dataset_sha256, code=True),
        Fact("trained by the code of commit", tags.get("training_commit", ""), code=True),
        Fact("registered by the code of commit", tags.get("git_commit", ""), code=True),
        Fact("training run", tags.get("training_run", ""), code=True),
        Fact("made of (hash of its settings and its data)", model.made_of, code=True),
        *(Fact(f"DVC's name of the {part}", tags.get(tag, ""), code=True) for tag, part in _IN_DVC.items()),
        Fact("DVC's remote", tags.get("dvc_remote", ""), code=True),
    ]
    found = ("git log -S NAME -- dvc.lock conf, with one of DVC's names, finds the commit that has it.",)
    known = any(tag in tags for tag in _IN_DVC)
    return Section("Lineage", found if known else (), tuple(fact for fact in facts if fact.value))


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
