"""A model's card: what it was made from and how, what it reached, what nobody knows of it, and what it cost.

After Mitchell et al. 2019, "Model Cards for Model Reporting". What is not known is said to be unknown.
"""

from __future__ import annotations

from typing import Final

from dinomill.handles import DatasetHandle, EvaluationHandle, ModelHandle
from dinomill.licences import licence_in_words, of_handle
from dinomill.models.known import OWN_LICENCE
from dinomill.registration.card_parts import CardTable, Fact, ModelCard, Section
from dinomill.registration.energy import Spent
from dinomill.registration.recipe import recipe_facts
from dinomill.scores import Figure, Measure, ModelScore, ScoreTable

_TRAINED = ("teacher", "student")
_USE: Final = (
    "Features of images of the kind that it was trained on: to search and group them, to classify them by few labels, "
    "to begin the training of another network with. It names nothing by itself: every use adds its own labels, "
    "neighbours or threshold, and has to be measured on its own images first (dinomill evaluate).",
    "Not for decisions about people, and not where a wrong neighbour does harm, unless that very use was evaluated.",
)
# What is asked of a model, and the measures that would answer: any of them.
_QUESTIONS: Final = {
    "places within an image (segmentation, depth)": ("miou", "depth_rmse"),
    "finding the same object again": ("map", "retrieval"),
    "copies and changed images": ("copies",),
    "noise, blur and moved images": ("robustness",),
    "few labels": ("few_shot",),
}


def model_card(
    model: ModelHandle, curated: DatasetHandle, evaluation: EvaluationHandle, *, cost: Spent | None = None
) -> ModelCard:
    """The card of a trained network.

    Args:
        model: The network.
        curated: What it was trained on.
        evaluation: The tables of scores.
        cost: What the run took that trained it; None: of the result alone, which other runs may have made as well.
    """
    sections = (
        Section("Intended use", _USE),
        _data(model, curated),
        Section("Recipe", (_made(model),), recipe_facts(model)),
        _results(model, evaluation),
        Section("Limits", points=_limits(model, evaluation)),
        _licence(model),
        _energy(cost),
    )
    return ModelCard(model.name, _headline(model, evaluation), sections)


def _headline(model: ModelHandle, evaluation: EvaluationHandle) -> str:
    """What lists of versions show of the card."""
    own = _own(model, evaluation)
    shown = [one for one in evaluation.measures if one.percent] or evaluation.measures[:1]
    figures = [] if own is None else [f"{one.title} {one.show(own.value(one.name))}" for one in shown]
    reached = f"{', '.join(figures)}; " if figures else ""
    return (
        f"{model.name}: {reached}{model.parameters / 1e6:.2f} M parameters, {model.embed_dim}-d embeddings of "
        f"{model.image_size} px images."
    )


def _own(model: ModelHandle, table: ScoreTable) -> ModelScore | None:
    return next((row for row in table.scores if row.model == model.name and row.kind in _TRAINED), None)


def _data(model: ModelHandle, curated: DatasetHandle) -> Section:
    if model.dataset_sha256 != curated.manifest_sha256:
        text = "It was trained on another dataset than the one that lies there now; of that, its hash alone is known."
        return Section("Data", (text,), (Fact("dataset", model.dataset_sha256, code=True),))
    fates = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in curated.fates.items() if name != "kept")
    low_high = "" if curated.value_range is None else f", stored values {curated.value_range}"
    times = model.images_seen / max(curated.images, 1)
    facts = (
        Fact("dataset", curated.manifest_sha256, code=True),
        Fact("images", f"{curated.images:,} kept of {curated.pool_images:,} looked at"),
        Fact("left out", fates or "nothing"),
        Fact("sources", ", ".join(curated.sources), code=True),
        Fact("chosen by", f"the features of {curated.embedder}; seeds: {'; '.join(curated.seeds.values()) or 'none'}"),
        Fact("channels", f"{curated.channels}{low_high}"),
        Fact("seen in training", f"{model.images_seen:,} images: each {times:.1f} times on average"),
        Fact("unreadable in training", f"{model.unreadable:,}" if model.unreadable else ""),
    )
    words = ["Trained without labels."]
    if of_handle(model).licence != OWN_LICENCE:
        words.append("What the weights it was made from had been trained on is unknown here: see their own card.")
    words.append("Who made the images, and under which terms, is unknown here: the sources are the user's.")
    return Section("Data", (" ".join(words),), tuple(fact for fact in facts if fact.value))


def _made(model: ModelHandle) -> str:
    origin = of_handle(model).origin or "from what is unknown"
    return f"Made by training for {model.steps:,} steps: {origin}."


def _results(model: ModelHandle, evaluation: EvaluationHandle) -> Section:
    tables = evaluation.tables()
    if not tables:
        return Section("Results", ("Nothing was measured: there were no labelled images.",))
    drawn = tuple(_table(model, name, table) for name, table in tables.items())
    helped = _helped(model, evaluation)
    return Section("Results", (helped,) if helped else (), tables=drawn)


def _helped(model: ModelHandle, evaluation: EvaluationHandle) -> str:
    """What training brought: against the weights it started from, and where it did not, against the pixels."""
    sentences = [evaluation.helped()]
    if any(score.model == model.name and score.kind == "student" for score in evaluation.scores):
        sentences.append(evaluation.helped(model.name))
    own = _own(model, evaluation)
    sentences.append(evaluation.behind_pixels() if own is None else evaluation.behind_pixels(own.kind))
    return " ".join(sentence for sentence in sentences if sentence)


def _table(model: ModelHandle, name: str | None, table: ScoreTable) -> CardTable:
    classes = f", {len(table.classes)} classes" if table.classes else ""
    unit = "per cent, unless said" if table.measures[0].percent else "units as said"
    labelled = f" Labelled images sha256 {table.labelled_sha256[:16]}." if table.labelled_sha256 else ""
    caption = (
        f"{table.query_images:,} query images, {table.bank_images:,} in the bank{classes}; {unit}, with its "
        f"confidence interval.{labelled}"
    )
    rows = tuple(
        (
            score.model,
            score.kind,
            f"{score.parameters / 1e6:.2f} M" if score.parameters else "–",
            *(_interval(one, score.scores[one.name]) for one in table.measures),
        )
        for score in table.scores
    )
    own = _own(model, table)
    head = ("model", "kind", "parameters", *(one.head for one in table.measures))
    where = "Scores" if name is None else f"Scores on {name}"
    return CardTable(where, caption, head, rows, None if own is None else table.scores.index(own))


def _interval(measure: Measure, figure: Figure) -> str:
    return f"{measure.bare(figure.value)} {figure.reach(measure)}".rstrip()


def _limits(model: ModelHandle, evaluation: EvaluationHandle) -> tuple[str, ...]:
    """What the results do not say."""
    tables = evaluation.tables()
    names = {measure.name for table in tables.values() for measure in table.measures}
    missing = [
        what for what, which in _QUESTIONS.items() if not any(name.startswith(one) for name in names for one in which)
    ]
    # A model that another table is of was not measured here.
    if not tables or all(_own(model, table) is None for table in tables.values()):
        found = ["Not evaluated: nothing is known of how good it is."]
    else:
        sets = ", ".join(name or "the labelled images" for name in tables)
        found = [f"Evaluated on {sets} alone. On images of another kind it is unknown how good it is."]
        if missing:
            found.append(f"Not evaluated: {'; '.join(missing)}.")
    channels = len(model.mean)  # of the network, which may take colour where the dataset is grey
    found += [
        f"Images are brought to {model.image_size} px and {channels} channel{'' if channels == 1 else 's'}: smaller "
        "detail is lost, others are refused or changed.",
        "Whether it treats groups of people, places or makers of images alike was not looked at.",
        "Intervals are of the images that were scored; another seed of the training can differ by more.",
    ]
    return tuple(found)


def licence_told(licence: str | None) -> str:
    """A licence as people are told it; an unknown one stands out."""
    told = licence_in_words(licence)
    return told.replace("unknown", "UNKNOWN", 1) if told.startswith("unknown") else told


def _licence(model: ModelHandle) -> Section:
    known = of_handle(model)
    facts = (
        Fact("licence", licence_told(known.licence)),
        Fact("origin", known.origin or "unknown"),
        Fact("started from", model.initial or "", code=True),
        Fact("their content", model.initial_sha256 or "", code=True),
        Fact("teacher", model.teacher_sha256 or "", code=True),
    )
    return Section("Licence and origin", facts=tuple(fact for fact in facts if fact.value))


def _energy(cost: Spent | None) -> Section:
    if cost is None:
        told = "Time and energy belong to a run: a registered version's page in MLflow says them of its own."
        return Section("Energy", (told,))
    hours = "unknown" if cost.hours is None else f"about {_duration(cost.hours)} of steps, as the curve has them"
    energy = "unknown" if cost.kwh is None else f"{cost.kwh:.3g} kWh"
    text = "Of this training alone: of the weights that it was made from, of curation and of trials nothing is counted."
    return Section("Energy", (text,), (Fact("time", hours), Fact("energy", energy), Fact("how it is known", cost.how)))


def _duration(hours: float) -> str:
    minutes = hours * 60
    return (
        f"{hours:,.1f} hours" if hours >= 2 else f"{minutes:.0f} minutes" if minutes >= 2 else f"{60 * minutes:.0f} s"
    )
