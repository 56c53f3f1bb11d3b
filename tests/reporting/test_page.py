from __future__ import annotations

import dataclasses
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dinomill.curation.page import report
from dinomill.handles import EvaluationHandle, ReportHandle
from dinomill.reporting import attached, build_report
from dinomill.reporting.page import render_page
from dinomill.storage.hashing import hash_file

_VOID = {"meta", "img", "br", "link", "input", "hr"}


class _Reader(HTMLParser):
    """Checks that elements are closed in order, and gathers what the page refers to."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.text = ""
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.links += [str(values[name]) for name in ("src", "href") if name in values]
        self.ids.add(str(values.get("id")))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_one_file_that_needs_nothing_else(run: Any, output: Path) -> None:
    handle = build_report(run.handles, run.config(output))
    assert handle == ReportHandle.load(output)
    assert handle.page_sha256 == hash_file(handle.page)
    page = handle.page.read_text(encoding="utf-8")
    assert len(page) < 5_000_000
    reader = _Reader(page)
    assert all(link.startswith(("data:image/", "#")) for link in reader.links)
    assert {link[1:] for link in reader.links if link.startswith("#")} <= reader.ids
    assert "<script" not in page
    assert "url(" not in page


def test_the_same_run_gives_the_same_page(run: Any, output: Path) -> None:
    assert render_page(run.handles, run.config(output)) == render_page(run.handles, run.config(output))


def test_documentation_is_a_link_where_it_lies_beside_the_page(run: Any, tmp_path: Path) -> None:
    output = tmp_path / "data" / "report"
    assert "docs/pretraining.md" not in render_page(run.handles, run.config(output))
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "pretraining.md").write_text("# Pretraining")
    page = render_page(run.handles, run.config(output))
    assert 'href="../../docs/pretraining.md"' in page


def test_every_part_is_there(run: Any, output: Path) -> None:
    page = render_page(run.handles, run.config(output))
    reader = _Reader(page)
    assert {"curation", "training", "evaluation", "features", "registered", "served", "next"} <= reader.ids
    for text in ("near duplicates", "raw pixels", "random weights", "kNN 81.2%", "models:/mill@champion", "0.999998"):
        assert text in reader.text
    assert page.count("<polyline") >= 6
    assert "<angle brackets> & more" in reader.text
    assert "<angle" not in page


@pytest.mark.parametrize("name", [None, "paper/mine"])
def test_its_commands_are_those_of_its_environment(run: Any, output: Path, name: str | None) -> None:
    page = render_page(run.handles, run.config(output, environment=name))
    commands = {"make ui": "", "dinomill serve": ""}
    commands |= {"dinomill embed": " FOLDER --output vectors.parquet", "dinomill search": " PICTURE vectors.parquet"}
    for command, rest in commands.items():
        option = "" if name is None else f" ENV={name}" if command == "make ui" else f" --env {name}"
        assert f"<code>{command}{option}{rest}</code>" in page


def test_what_a_class_means_is_said_of_the_planted_pool_alone(run: Any, output: Path, tmp_path: Path) -> None:
    said = "the photograph that a tile was cut from"
    assert said in _Reader(render_page(run.handles, run.config(output, labels=said))).text
    assert said not in render_page(run.handles, run.config(output, labels=said, planted=None))
    assert "What a class is" not in render_page(run.handles, run.config(output))


def test_parts_that_are_not_there_are_left_out(run: Any, output: Path) -> None:
    evaluation = run.handles.evaluation.model_copy(update={"scores": (), "folder": output})
    students = run.handles.students.model_copy(update={"students": {}})
    handles = dataclasses.replace(run.handles, evaluation=evaluation, students=students, labelled=None)
    page = render_page(handles, run.config(output, planted=None))
    reader = _Reader(page)
    assert not {"evaluation", "features"} & reader.ids
    assert "planted" not in reader.text
    assert {"curation", "training", "registered", "served"} <= reader.ids


def test_a_pool_that_is_gone_leaves_gaps_not_errors(run: Any, output: Path, tmp_path: Path) -> None:
    moved = run.sample / "pool"
    away = moved.rename(tmp_path / "pool")
    try:
        page = render_page(run.handles, run.config(output))
    finally:
        away.rename(moved)
    assert "not readable" in page


def test_pages_of_other_stages_are_beside_the_report_when_they_are_there(run: Any, tmp_path: Path) -> None:
    docs = tmp_path / "quality" / "docs"
    docs.mkdir(parents=True)
    (docs / "index.html").write_text("checked")
    quality = {"raw_manifest": tmp_path / "quality", "evaluation": tmp_path / "nothing"}
    config = run.config(tmp_path / "report", quality=quality)
    page = render_page(run.handles, config)
    assert 'href="data_docs/raw_manifest/index.html"' in page and "data_docs/evaluation" not in page
    assert (config.output / "data_docs" / "raw_manifest" / "index.html").read_text() == "checked"
    assert "curation.html" not in page
    assert attached.PAGE == report.PAGE
    made = run.handles.curated.folder / attached.PAGE
    made.write_text("where they went")
    try:
        assert 'href="curation.html"' in render_page(run.handles, config)
    finally:
        made.unlink()
    assert (config.output / "curation.html").read_text() == "where they went"


@pytest.mark.parametrize("count", [0, 3])
def test_extent_follows_the_configuration(run: Any, output: Path, count: int) -> None:
    config = run.config(
        output,
        kept_images=count,
        removed_images=count,
        duplicate_pairs=count,
        queries=0,
        pca_images=0,
        confused_pairs=0,
    )
    page = render_page(run.handles, config)
    sheets = 3  # exact, near, irrelevant; and the kept ones
    assert page.count("<img") == count * (sheets + 1) + 2 * count


HOSTILE = '<script>alert("1")</script> & "quoted" |\''


def _renamed(run: Any, folder: Path, old: str) -> EvaluationHandle:
    """The evaluation with a class and a model of hostile names."""
    before = run.handles.evaluation
    shutil.copytree(before.folder, folder)
    for name, columns in (
        ("images.parquet", None),
        ("neighbours.parquet", ["query_label", "vote", "neighbour_label"]),
    ):
        table = pq.read_table(folder / name)
        for column in columns or [one for one in table.column_names if one != "path"]:
            index = table.column_names.index(column)
            values = [HOSTILE if value == old else value for value in table[column].to_pylist()]
            table = table.set_column(index, column, pa.array(values))
        pq.write_table(table, folder / name)
    classes = tuple(HOSTILE if name == old else name for name in before.classes)
    scores = tuple(row.model_copy(update={"model": HOSTILE}) if row.kind == "teacher" else row for row in before.scores)
    reference = before.scores[-1].model_copy(update={"model": HOSTILE, "kind": "reference"})
    return before.model_copy(update={"folder": folder, "classes": classes, "scores": (*scores, reference)})


def test_hostile_names_of_classes_and_models_are_text(run: Any, output: Path, tmp_path: Path) -> None:
    evaluation = _renamed(run, tmp_path / "evaluation", run.handles.evaluation.classes[0])
    teacher = run.handles.teacher.model_copy(update={"name": HOSTILE, "origin": HOSTILE, "licence": HOSTILE})
    handles = dataclasses.replace(run.handles, evaluation=evaluation, teacher=teacher)
    page = render_page(handles, run.config(output, queries=10, failures=10, confused_pairs=20))
    reader = _Reader(page)
    assert "<script" not in page
    assert reader.text.count(HOSTILE) > 5
    assert all(link.startswith(("data:image/", "#")) for link in reader.links)


def test_every_table_scrolls_in_a_box_of_its_own(run: Any, output: Path) -> None:
    """On a telephone the page itself would be cut off, or pushed to the side."""
    page = build_report(run.handles, run.config(output)).page.read_text(encoding="utf-8")
    boxed = re.findall(r'<div class="scroll"[^>]*>\s*<table', page)
    assert len(boxed) == page.count("<table") > 5


def test_every_picture_has_words(run: Any, output: Path) -> None:
    page = render_page(run.handles, run.config(output))
    pictures = re.findall(r"<img\b[^>]*>", page) + re.findall(r"<svg\b[^>]*>", page)
    assert len(pictures) > 100
    assert all(re.search(r'(alt|aria-label)="[^"]+"', one) for one in pictures)


def test_a_convolutional_teacher_is_said_to_have_no_attention(run: Any, output: Path, tmp_path: Path) -> None:
    shutil.copytree(run.handles.evaluation.folder, tmp_path / "evaluation")
    (tmp_path / "evaluation" / "attention" / "teacher.npy").unlink()
    evaluation = run.handles.evaluation.model_copy(update={"folder": tmp_path / "evaluation"})
    (tmp_path / "convnext").mkdir()
    (tmp_path / "convnext" / "config.json").write_text('{"model": {"kind": "convnext"}}')
    teacher = run.handles.teacher.model_copy(update={"folder": tmp_path / "convnext"})
    page = render_page(dataclasses.replace(run.handles, evaluation=evaluation, teacher=teacher), run.config(output))
    said = "is convolutional: it has no class token"
    assert f"The teacher {said}" in _Reader(page).text and f"student nano {said}" not in _Reader(page).text


def test_a_table_of_labels_is_looked_up_beside_it(run: Any, output: Path) -> None:
    table = Path(run.handles.labelled) / "labels.csv"
    table.touch()
    try:
        page = render_page(dataclasses.replace(run.handles, labelled=str(table)), run.config(output))
    finally:
        table.unlink()
    assert "Nearest neighbours by the teacher" in page and "not readable" not in page.split('id="features"')[1]


def test_every_model_has_a_card_on_the_page(run: Any, output: Path) -> None:
    page = render_page(run.handles, run.config(output))
    assert page.count('<details class="model-card"') == 2
    for title in ("Intended use", "Data", "Recipe", "Results", "Limits", "Licence and origin", "Energy"):
        assert page.count(f"<h3>{title}</h3>") == 2
