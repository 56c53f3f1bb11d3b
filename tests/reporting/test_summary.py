from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from dinomill.reporting import build_report
from dinomill.reporting.summary import render


def _print(folders: dict[str, Path], width: int = 110, env: str | None = None) -> str:
    console = Console(width=width, file=io.StringIO())
    render(folders, console, env)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_it_says_what_the_run_did(run: Any, output: Path) -> None:
    handles = run.handles
    build_report(handles, run.config(output))
    folders = {
        "curated": handles.curated.folder,
        "evaluation": handles.evaluation.folder,
        "registration": handles.registration.folder,
        "package": handles.package.folder,
        "report": output,
    }
    text = _print(folders)
    for line in ("kept", "near duplicates", " minus random weights", "points kNN", "mill version 3"):
        assert line in text
    assert "candidate, champion" in text
    assert "12 ms" in text
    assert "make ui" in text
    assert "make serve" in text
    assert "still to run" not in text
    assert f"{handles.curated.images:,}" in text
    assert str(output / "index.html") in text.replace("\n", "").replace(" ", "")


def test_what_is_not_there_yet_is_left_out(run: Any, tmp_path: Path) -> None:
    text = _print({"curated": run.handles.curated.folder, "evaluation": tmp_path / "nothing"})
    assert "kept" in text
    assert "Accuracy" not in text
    unfinished = _print({"curated": run.handles.curated.folder}, env="mine")
    assert "make serve" not in unfinished  # there is no package
    assert "make run ENV=mine" in unfinished
    assert "make ui ENV=mine" in unfinished
    assert "No stage has run yet" in _print({"curated": tmp_path})


def test_how_well_seeds_separate_is_said(run: Any, tmp_path: Path) -> None:
    said = "cats hardly separates: it asks for 90 of 100 images: raise curation.embedding.embedder.image_size."
    curated = run.handles.curated.model_copy(update={"folder": tmp_path, "seeds": {"cats": said}})
    curated.save()
    assert said in " ".join(_print({"curated": tmp_path}, width=160).split())


def test_did_it_help_is_said_first(run: Any, output: Path, tmp_path: Path) -> None:
    from dinomill.reporting.page import render_page
    from dinomill.scores import Difference
    from tests.tables import row

    plain = run.handles.evaluation
    start = row("starting weights", "start", knn=0.5, linear=0.5)
    gain = {name: Difference(value=0.031, low=0.012, high=0.05) for name in ("knn", "linear")}
    evaluation = plain.model_copy(
        update={"scores": (*plain.scores, start), "gains": {"teacher_over_start": gain}, "folder": tmp_path}
    )
    evaluation.save()
    sentence = "The adapted model is better than the weights that it started from: kNN +3.1 points [+1.2, +5.0]"
    text = " ".join(_print({"evaluation": tmp_path}, width=200).split())
    assert sentence in text
    assert "starting weights" in text
    page = render_page(dataclasses.replace(run.handles, evaluation=evaluation), run.config(output))
    assert page.index(sentence) < page.index("<nav>")
    assert sentence not in render_page(run.handles, run.config(output))


def test_what_is_of_an_earlier_run_is_said_to_be(run: Any, tmp_path: Path) -> None:
    handles, folders = run.handles, {}
    for name in ("curated", "teacher", "students", "evaluation", "registration", "package"):
        folders[name] = tmp_path / name
        getattr(handles, name).model_copy(update={"folder": tmp_path / name}).save()
    assert "earlier" not in _print(folders)
    (tmp_path / "teacher" / "handle.json").unlink()  # pretraining is at work
    text = _print(folders, env="mine")
    assert "git add conf/mine && git commit" in text
    assert text.count("Of an earlier run: pretraining has no result at present.") == 2  # the table, and the model
    assert "serve the model (of an earlier run)" in text and "dinomill plan --env mine" in text


def test_a_gate_that_was_not_passed_says_what_that_means_and_what_to_do(run: Any, tmp_path: Path) -> None:
    failed = run.handles.registration.model_copy(
        update={"folder": tmp_path, "passed_gate": False, "gate": ("FAILED: kNN is low",), "aliases": ("candidate",)}
    )
    failed.save()
    text = " ".join(_print({"registration": tmp_path}).split())
    assert "not passed" in text and "FAILED: kNN is low" in text
    assert "the alias `champion` stays where it is" in text and "registration.gate" in text
    failed.model_copy(update={"passed_gate": True}).save()
    assert "champion` stays" not in _print({"registration": tmp_path})


def test_a_version_that_the_registry_does_not_have_is_said(run: Any, tmp_path: Path) -> None:
    """After `dvc pull` into a fresh clone it said champion, and there was no such model."""
    import sqlite3

    database = tmp_path / "mlflow.db"

    def said() -> str:
        console = Console(width=200, file=io.StringIO())
        render({"registration": run.handles.registration.folder}, console, "mine", store=f"sqlite:///{database}")
        return " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]

    missing = "kedro run --env mine --pipelines registration` brings it there"
    assert missing in said()
    with sqlite3.connect(database) as connection:
        connection.execute("create table model_versions (name text, version integer, current_stage text)")
        assert missing in said()
        connection.execute("insert into model_versions values ('mill', 3, 'None')")
    connection.close()
    assert missing not in said()


def test_what_to_commit_and_to_push_stands_at_the_end(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dinomill.commands.stages import has_remote

    folders = {"curated": run.handles.curated.folder}
    assert "dvc push" not in _print(folders)
    console = Console(width=110, file=io.StringIO())
    render(folders, console, remote=True)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert said.index("git add dvc.yaml dvc.lock conf && git commit") < said.index("dvc push")

    monkeypatch.chdir(tmp_path)
    assert not has_remote()
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("[core]\n    analytics = false\n['remote \"team\"']\n    url = /mnt\n")
    assert not has_remote(), "it is no default"
    (tmp_path / ".dvc/config.local").write_text("[core]\n    remote = team\n")
    assert has_remote()
