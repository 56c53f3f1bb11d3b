"""The report: one self-contained HTML page on a whole run, readable without scripts, a server or a network.

<output>/handle.json
<output>/index.html
<output>/curation.html, <output>/data_docs/    see attached.py
"""

from __future__ import annotations

import os
from collections.abc import Sequence
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
from dinomill.reporting.attached import attach_pages
from dinomill.reporting.config import ReportingConfig
from dinomill.reporting.curation import view_curation
from dinomill.reporting.features import view_neighbours, view_patches
from dinomill.reporting.lineage import Left
from dinomill.reporting.planted import score_planted
from dinomill.reporting.scores import view_scores, view_sets
from dinomill.reporting.training import view_training
from dinomill.storage.atomic import write_text
from dinomill.storage.hashing import hash_file, hash_json

PAGE_NAME = "index.html"


@dataclass(frozen=True)
class RunHandles:
    """The handles of a whole run. ``labelled`` is the folder of labelled images, where there is one."""

    curated: DatasetHandle
    teacher: ModelHandle
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
        return hash_json([config.model_dump(mode="json", exclude={"output"}), [one.made_of for one in handles]])

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
    models = [*(["start"] if run.teacher.start else []), "teacher", run.label_of_champion()]
    labelled = Path(run.labelled) if run.labelled and "://" not in run.labelled else None
    pictures: dict[str, Sequence[Any]] = {"neighbours": (), "patches": ()}
    if labelled is not None and labelled.exists():
        arguments = (run.evaluation, root_of(labelled), models, run.curated, config)
        pictures = {"neighbours": view_neighbours(*arguments), "patches": view_patches(*arguments)}
    planted = score_planted(run.curated, config.planted)
    champion = run.students.students.get(run.students.champion)
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
                view_training(run.teacher, "teacher"),
                *(view_training(student, "student") for student in run.students.students.values()),
            ],
            scores=view_scores(run.evaluation),
            sets=view_sets(run.evaluation),
            teacher=run.teacher,
            champion=champion,
            registration=run.registration,
            package=run.package,
            guide=_guide(config.output),
            attached=attach_pages(run.curated, config.quality, config.output),
            **pictures,
        )
    )


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
