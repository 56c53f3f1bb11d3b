"""The report: one self-contained HTML page on a whole run, readable without scripts, a server or a network.

<output>/handle.json
<output>/index.html
<output>/curation.html, <output>/data_docs/    see attached.py
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from dinomill.handles import (
    DatasetHandle,
    EvaluationHandle,
    ModelHandle,
    PackageHandle,
    RegistrationHandle,
    ReportHandle,
    StudentsHandle,
)
from dinomill.images.labelled import root_of
from dinomill.registration.card_of import model_card
from dinomill.registration.card_parts import ModelCard
from dinomill.reporting.attached import attach_pages
from dinomill.reporting.attention import has_attention
from dinomill.reporting.config import ReportingConfig
from dinomill.reporting.confusion import view_confusions
from dinomill.reporting.curation import view_curation
from dinomill.reporting.features import view_neighbours, view_patches
from dinomill.reporting.growth import view_curated, view_labels
from dinomill.reporting.lineage import Left
from dinomill.reporting.names import display_name, readable
from dinomill.reporting.pictures import LabelledPictures
from dinomill.reporting.planted import score_planted
from dinomill.reporting.scores import Headline, ScoresView, headline, view_scores, view_sets
from dinomill.reporting.served import view_backends
from dinomill.reporting.training import view_training
from dinomill.storage.atomic import write_text
from dinomill.storage.hashing import hash_file, hash_json

PAGE_NAME = "index.html"


@dataclass(frozen=True)
class RunHandles:
    """The handles of a whole run. ``labelled`` is the folder of labelled images, where there is one."""

    curated: DatasetHandle
    teacher: ModelHandle | None  # None where the students had another teacher
    students: StudentsHandle
    evaluation: EvaluationHandle
    registration: RegistrationHandle
    package: PackageHandle
    labelled: str | None = None

    def earlier(self) -> dict[str, str]:
        """The stages whose results are of an earlier run, and why: a page may be drawn of several runs."""
        left = Left(self.curated, self.teacher, self.students, self.evaluation, self.registration, self.package)
        return left.earlier()

    def made_of(self, config: ReportingConfig) -> str:
        """What a page of them depends on."""
        handles = (self.curated, self.teacher, self.students, self.evaluation, self.registration, self.package)
        made = [one.made_of for one in handles if one is not None]
        return hash_json([config.model_dump(mode="json", exclude={"output"}), made])

    def without_attention(self) -> tuple[str, ...]:
        """Models whose networks have no class token, by their labels as people read them."""
        champion = self.students.students.get(self.students.champion)
        shown = ({} if self.teacher is None else {"teacher": self.teacher}) | (
            {self.label_of_champion(): champion} if champion else {}
        )
        return tuple(readable(label) for label, model in shown.items() if not has_attention(model))

    def other_teachers(self) -> tuple[str, ...]:
        """What students were distilled from that pretraining did not make, in words; empty where it taught them all."""
        students = self.students.students.values()
        own = None if self.teacher is None else self.teacher.weights_sha256
        others = [one for one in students if self.teacher is None or not one.taught_by(own)]
        return tuple(dict.fromkeys(one.origin or "distilled from another network" for one in others))

    def registered_kind(self) -> str:
        """Whether the registered network is pretraining's or a student: its kind in the tables."""
        own = self.teacher is not None and self.teacher.weights_sha256 == self.registration.weights_sha256
        return "teacher" if own else "student"

    def label_of_champion(self) -> str:
        """The champion's name in evaluation's files."""
        return f"student-{self.students.champion}"


def build_report(run: RunHandles, config: ReportingConfig) -> ReportHandle:
    """Write the page.

    Args:
        run: What the stages left.
        config: How much to show.

    Raises:
        InputError: When a stage's folder lacks what its handle describes.
    """
    page = config.output / PAGE_NAME
    write_text(page, render_page(run, config))
    handle = ReportHandle(folder=config.output, made_of=run.made_of(config), page=page, page_sha256=hash_file(page))
    handle.save()
    return handle


def render_page(run: RunHandles, config: ReportingConfig) -> str:
    """The page's HTML."""
    planted = score_planted(run.curated, config.planted)
    champion = run.students.students.get(run.students.champion)
    scores = view_scores(run.evaluation, run.registered_kind())
    return (
        _environment()
        .get_template("report.html")
        .render(
            make=f" ENV={config.environment}" if config.environment else "",
            option=f" --env {config.environment}" if config.environment else "",
            earlier=run.earlier(),
            curation=view_curation(run.curated, config),
            planted=planted,
            labels=config.labels if planted else None,  # of other images it would not be true
            trainings=[
                *([] if run.teacher is None else [view_training(run.teacher, "teacher")]),
                *(view_training(student, "student") for student in run.students.students.values()),
            ],
            scores=scores,
            headline=_headline(run, scores),
            by_labels=view_labels(run.evaluation),
            by_curated=view_curated(config.curated_shares, run.evaluation.measures, run.curated.manifest_sha256),
            sets=view_sets(run.evaluation),
            teacher=run.teacher,
            teacher_parameters=_parameters_of_teacher(run),
            champion=champion,
            other_teachers=run.other_teachers(),
            registration=run.registration,
            cards=_cards(run),
            package=run.package,
            backends=view_backends(run.package),
            guide=_guide(config.output),
            attached=attach_pages(run.curated, config.quality, config.output),
            without_attention=run.without_attention(),
            **_pictures(run, config),
        )
    )


def _headline(run: RunHandles, scores: ScoresView | None) -> Headline | None:
    """The registered network, first of all."""
    kind, champion = run.registered_kind(), run.students.students.get(run.students.champion)
    taught = champion is not None and run.evaluation.measured_teacher_of(champion)
    rows = [row for row in run.evaluation.scores if row.kind == kind]
    own = [row for row in rows if kind == "teacher" or (champion is not None and row.model == champion.name)]
    return headline(scores, kind, display_name(own[0]), taught=taught) if own else None


def _parameters_of_teacher(run: RunHandles) -> int | None:
    """Of the network that taught; None where that was not measured."""
    if run.teacher is not None:
        return None if run.other_teachers() else run.teacher.parameters
    measured = run.evaluation.score("teacher")
    return measured.parameters if measured else None


def _pictures(run: RunHandles, config: ReportingConfig) -> dict[str, Any]:
    """What shows labelled images; without them, the confusions alone."""
    models = [*(["start"] if run.teacher and run.teacher.start else []), "teacher", run.label_of_champion()]
    best = run.evaluation.score("student")
    compared = ["teacher", *([f"student-{best.model}"] if best else [])]
    confusions = view_confusions(run.evaluation, compared, config.confused_pairs)
    place = Path(run.labelled) if run.labelled and "://" not in run.labelled else None
    found: dict[str, Any] = {"confusions": confusions, "neighbours": (), "patches": (), "show": None}
    if place is not None and place.exists():
        root = root_of(place)
        arguments = (run.evaluation, root, models, run.curated, config)
        found |= {"neighbours": view_neighbours(*arguments), "patches": view_patches(*arguments)}
        found["show"] = LabelledPictures(root, run.curated, config.thumbnail)
    return found


def _cards(run: RunHandles) -> list[tuple[str, ModelCard]]:
    """The card of every network, with what people call it."""
    own = [] if run.teacher is None else [("teacher", run.teacher)]
    models = [*own, *((f"student {name}", one) for name, one in run.students.students.items())]
    return [(name, model_card(one, run.curated, run.evaluation)) for name, one in models]


def _guide(output: Path) -> str | None:
    """Where docs/pretraining.md lies, seen from the page; None where the project has no documentation beside it."""
    for parent in output.absolute().parents:
        if (parent / "docs" / "pretraining.md").is_file():
            return Path(os.path.relpath(parent / "docs" / "pretraining.md", output.absolute())).as_posix()
    return None


def _environment() -> Environment:
    # StrictUndefined: a misspelt name in the template is an error in our tests, not a gap in somebody's report.
    environment = Environment(
        loader=PackageLoader("dinomill.reporting", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": lambda value: f"{value:,}",
        "percent": lambda value: f"{100 * value:.1f}%",
        "minus": lambda text: text.replace("-", "−"),
        "millions": _millions,
        "short": lambda value: str(value)[:12],
    }
    return environment


def _millions(value: int) -> str:
    """A number of parameters in two or three digits."""
    if value < 1e6:
        return f"{value / 1e3:.0f} k"
    return f"{value / 1e6:.1f} M" if value < 1e8 else f"{value / 1e6:,.0f} M"
