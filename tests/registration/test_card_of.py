"""Model cards: what is known, what is said to be unknown, and that no name becomes markup."""

from __future__ import annotations

import json
from pathlib import Path

import markdown_it
import pytest

from dinomill.handles import DatasetHandle, ModelHandle, StudentsHandle
from dinomill.registration.card_of import model_card
from dinomill.registration.card_parts import Fact, ModelCard, Section, markdown, safe
from dinomill.registration.cards import all_cards
from dinomill.registration.energy import spent
from tests.registration.conftest import Evaluated


def _section(card: ModelCard, title: str) -> Section:
    return next(one for one in card.sections if one.title == title)


def _facts(card: ModelCard, title: str) -> dict[str, str]:
    return {fact.name: fact.value for fact in _section(card, title).facts}


@pytest.fixture
def student(students: StudentsHandle, curated: DatasetHandle) -> ModelHandle:
    return students.students["small"].model_copy(update={"dataset_sha256": curated.manifest_sha256})


def test_it_says_what_is_known(student: ModelHandle, curated: DatasetHandle, evaluated: Evaluated) -> None:
    recipe = {"objective": "regression", "model": {"embed_dim": 32}, "recipe": {"steps": 7, "crops": {"flip": 0.5}}}
    (student.folder / "recipe.json").write_text(json.dumps(recipe | {"step": {"precision": "auto", "head": {"a": 1}}}))
    card = model_card(student, curated, evaluated())
    assert [one.title for one in card.sections] == [
        "Intended use", "Data", "Recipe", "Results", "Limits", "Licence and origin", "Energy",
    ]  # fmt: skip
    data = _facts(card, "Data")
    assert data["dataset"] == "d" * 64 and data["images"] == "900 kept of 1,300 looked at"
    assert data["left out"] == "near duplicate 400"
    told = _facts(card, "Recipe")
    assert (told["objective"], told["network"], told["crops"]) == ("regression", "embed dim 32", "flip 0.5")
    assert told["in short"] == "steps 7" and told["settings"] == "precision auto" and told["head"] == "a 1"
    (table,) = _section(card, "Results").tables
    assert table.own == 3 and table.rows[3][3] == "80.0 [78.0, 82.0]"
    limits = " ".join(_section(card, "Limits").points)
    assert "Evaluated on the labelled images alone." in limits and "places within an image" in limits


def test_what_is_not_known_is_said(student: ModelHandle, curated: DatasetHandle, evaluated: Evaluated) -> None:
    foreign = student.model_copy(update={"teacher_sha256": "f" * 64, "licence": None, "origin": None})
    card = model_card(foreign, curated, evaluated().model_copy(update={"scores": ()}))
    assert _facts(card, "Recipe")["recipe"].startswith("unknown")
    assert _facts(card, "Licence and origin")["licence"].startswith("UNKNOWN")
    assert _facts(card, "Licence and origin")["origin"] == "unknown"
    assert not _section(card, "Energy").facts
    unknown = model_card(foreign, curated, evaluated(), cost=spent(None))
    assert _facts(unknown, "Energy")["energy"] == "unknown"
    assert "had been trained on is unknown" in _section(card, "Data").paragraphs[0]
    assert "Nothing was measured" in _section(card, "Results").paragraphs[0]
    assert _section(card, "Limits").points[0].startswith("Not evaluated")
    other = foreign.model_copy(update={"dataset_sha256": "0" * 64})
    assert "another dataset" in _section(model_card(other, curated, evaluated()), "Data").paragraphs[0]


def test_every_network_has_a_card(
    teacher: ModelHandle, students: StudentsHandle, curated: DatasetHandle, evaluated: Evaluated
) -> None:
    two = students.model_copy(update={"students": {**students.students, "../up": students.students["small"]}})
    cards = all_cards(teacher, two, curated, evaluated())
    assert list(cards) == ["teacher", "student-small", "student-.._up"]
    assert cards["teacher"].startswith("# vit-nano\n\nvit-nano: kNN 82.0%")
    assert "| **vit-nano** | teacher |" in cards["teacher"] and "| **small** | student |" in cards["student-small"]


HOSTILE = "a|b `c` **d** <img src=x onerror=alert(1)> [click](javascript:alert(1)) &amp; \\ e\n# title"


def test_no_name_becomes_markup() -> None:
    section = Section("S", (HOSTILE,), (Fact(HOSTILE, HOSTILE), Fact("code", HOSTILE, code=True)), points=(HOSTILE,))
    page = markdown_it.MarkdownIt("commonmark").enable("table").render(markdown(ModelCard("n", HOSTILE, (section,))))
    assert "<img" not in page and "<a " not in page and "<h1" not in page
    assert page.count("<strong>") == 0
    rows = page.count("<tr>")
    assert rows == 3 and page.count("<td>") == 4  # a head and two facts, two cells each
    assert safe("plain text_with [brackets] and 5%") == "plain text_with [brackets] and 5%"
    assert "&lt;img src=x onerror=alert(1)&gt;" in page


def test_the_page_of_a_hostile_run_is_a_page(
    student: ModelHandle, curated: DatasetHandle, evaluated: Evaluated, tmp_path: Path
) -> None:
    named = student.model_copy(update={"origin": HOSTILE, "licence": HOSTILE, "name": HOSTILE})
    text = markdown(model_card(named, curated.model_copy(update={"sources": (HOSTILE,)}), evaluated()))
    page = markdown_it.MarkdownIt("commonmark").enable("table").render(text)
    assert "<img" not in page and "<a " not in page and "<h1" not in page
