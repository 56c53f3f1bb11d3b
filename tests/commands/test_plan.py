from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dinomill.commands.ahead import Ahead, look_ahead, require_fit_for_dvc
from dinomill.commands.app import app
from dinomill.commands.plan import Step, make_plan, show
from dinomill.errors import InputError
from dinomill.planning.checks import ChecksFailed
from dinomill.planning.measured import Measured, StageMeasured
from dinomill.planning.prediction import Prediction
from dinomill.storage.lock import held

DVC_YAML = """
stages:
  first:
    cmd: mkdir -p out && cp in/a.txt out/a.txt
    deps: [in]
    params: [p.yml: [size]]
    outs: [out]
  second:
    cmd: cp out/a.txt last.txt
    deps: [out]
    outs: [last.txt]
  apart:
    cmd: cp in/b.txt apart.txt
    deps: [in/b.txt]
    outs: [apart.txt]
"""


@pytest.fixture
def pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    for name in "ab":
        (tmp_path / "in" / f"{name}.txt").write_text("x" * 1_000_000, encoding="utf-8")
    (tmp_path / "p.yml").write_text("size: 1\n", encoding="utf-8")
    (tmp_path / "dvc.yaml").write_text(DVC_YAML, encoding="utf-8")
    dvc("init", "--no-scm", "--quiet")
    return tmp_path


def dvc(*arguments: str) -> None:
    program = Path(sys.executable).with_name("dvc")
    subprocess.run([program, *arguments], check=True, capture_output=True)


def verdicts() -> dict[str, str]:
    return {step.stage: step.verdict for step in make_plan()}


def test_the_plan_follows_what_happens(pipeline: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert set(verdicts().values()) == {"run"}
    assert all(step.reasons == ("has not run yet",) for step in make_plan())
    assert [step.stage for step in make_plan()].index("first") < [step.stage for step in make_plan()].index("second")

    dvc("repro")
    assert set(verdicts().values()) == {"up to date"}
    show(make_plan())
    assert "Nothing to do" in capsys.readouterr().out

    (pipeline / "p.yml").write_text("size: 2\n", encoding="utf-8")
    steps = {step.stage: step for step in make_plan()}
    assert steps["first"].verdict == "run"
    assert "size in p.yml changed" in steps["first"].reasons
    assert steps["first"].inputs == "2 files, 2.0 MB"
    assert steps["second"].verdict == "run, if what it waits for changes"
    assert steps["second"].reasons == ("after first",)
    assert steps["apart"].verdict == "up to date"

    (pipeline / "last.txt").unlink()
    steps = {step.stage: step for step in make_plan()}
    assert steps["second"].verdict == "run"
    assert "result last.txt is missing" in steps["second"].reasons
    show(make_plan())
    assert "2 of 3 stages to run" in capsys.readouterr().out


def test_a_stage_that_always_looks_is_no_news(pipeline: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Registration looks at the registry every time: a plan that always had a stage to run would say nothing."""
    looking = DVC_YAML.replace(
        "    outs: [last.txt]", "    outs: [last.txt: {persist: true}]\n    always_changed: true"
    )
    after = "  third:\n    cmd: cp last.txt third.txt\n    deps: [last.txt]\n    outs: [third.txt]\n"
    (pipeline / "dvc.yaml").write_text(looking + after, encoding="utf-8")
    dvc("repro")
    steps = {step.stage: step for step in make_plan()}
    assert {step.verdict for step in steps.values()} == {"up to date"}
    assert steps["second"].reasons == ("looks outside of DVC each time it is asked",)
    show(make_plan())
    assert "Nothing to do" in capsys.readouterr().out
    (pipeline / "p.yml").write_text("size: 2\n", encoding="utf-8")
    assert verdicts()["third"] == verdicts()["second"] == "run, if what it waits for changes"


def test_without_a_pipeline_the_way_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"no dvc\.yaml"):
        make_plan()
    (tmp_path / "dvc.yaml").write_text(DVC_YAML, encoding="utf-8")
    with pytest.raises(InputError, match="no DVC project"):
        make_plan()


def test_a_plan_during_a_run_says_what_runs(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It said that DVC could not read the project."""
    from dvc.repo import Repo

    monkeypatch.chdir(project)
    dvc("init", "--no-scm", "--quiet")
    (project / "dvc.yaml").write_text(DVC_YAML, encoding="utf-8")
    lock = project / "data/work/locks/curation.lock"
    with Repo() as repo, repo.lock:
        with held(lock, InputError("busy")), pytest.raises(InputError, match="is at work in this project") as caught:
            make_plan()
        assert f"running: curation (process {os.getpid()})" in str(caught.value)
        with pytest.raises(InputError, match="its lock is held: a `dvc repro`"):
            make_plan()


@pytest.fixture
def own_images(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a pool and labels; the working directory."""
    from tests.planning.checks.conftest import write_labelled, write_pool

    write_pool(project / "raw/pool", 40)
    write_labelled(project / "raw/labelled")
    (project / "conf/local/globals.yml").write_text(
        "pool: [raw/pool]\nseeds: null\nlabelled: raw/labelled\n", encoding="utf-8"
    )
    monkeypatch.chdir(project)
    return project


STAGES = {"curation": True, "pretraining": True, "distillation": True, "evaluation": False}


def shown(ahead: Ahead, capsys: pytest.CaptureFixture[str]) -> str:
    verdicts = {True: "run", False: "up to date"}
    show([Step(stage, verdicts[stage != "evaluation"], ("why",), "") for stage in ahead.outlooks], ahead=ahead)
    return capsys.readouterr().out


def test_time_is_measured_predicted_or_unknown(own_images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    took = StageMeasured(seconds=61, images=40, memory_bytes=1_234_000_000)
    Measured().record("curation", took, own_images / "data/work")
    predicted = {"images": 57_600, "seconds": 3960, "memory_bytes": 800_000_000, "disk_bytes": 1}
    Prediction.model_validate({"stages": {"pretraining": predicted}}).save(own_images / "conf/local/plan.json")
    text = shown(look_ahead(None, STAGES), capsys)
    rows = {line.split()[0]: line for line in text.splitlines() if line.split()[:1] and line.split()[0] in STAGES}
    assert rows["curation"].split()[-5:] == ["40", "61", "s", "1.2", "GB"]
    assert rows["pretraining"].split()[-6:] == ["57,600", "about", "66", "min", "800", "MB"]
    assert "time unknown" in rows["distillation"]
    assert "3 of 4 stages to run with `dvc repro`: about 67 min and what is unknown (" in text


def test_the_plan_says_what_has_to_be_put_right(own_images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(own_images / "raw/labelled/test")
    (own_images / "conf/local/parameters.yml").write_text("pretraining: {batch_size: 64}\n", encoding="utf-8")
    ahead = look_ahead(None, STAGES | {"evaluation": True})
    assert ahead.stopping
    text = shown(ahead, capsys)
    assert "There is no labelled split raw/labelled/test" in text
    assert "set in: labelled in conf/local/globals.yml" in text
    assert "warning: A step of pretraining takes more images than there are" in text
    assert "found: 1,024 prototypes, 40 images" in text
    assert not look_ahead(None, STAGES).stopping  # evaluation will not run


def test_what_dvc_would_wait_for_is_refused(own_images: Path) -> None:
    require_fit_for_dvc(None)
    os.mkfifo(own_images / "raw/pool/pipe")
    with pytest.raises(ChecksFailed, match="wait for ever") as caught:
        require_fit_for_dvc(None)
    assert "pipe, socket or device: raw/pool/pipe" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "target", "said"), [("loop", "loop", "link to nothing"), ("gone", "nowhere", "link to nothing")]
)
def test_links_at_which_dvc_would_stop_are_refused(own_images: Path, name: str, target: str, said: str) -> None:
    (own_images / "raw/labelled/train/a/fine").symlink_to("0.png")
    require_fit_for_dvc(None)
    (own_images / "raw/labelled/train/a" / name).symlink_to(target)
    with pytest.raises(ChecksFailed, match=said):
        require_fit_for_dvc(None)


def test_names_at_which_dvc_would_stop_are_refused(own_images: Path) -> None:
    (own_images / "raw/pool/Straße.png").write_bytes(b"")
    require_fit_for_dvc(None)
    Path(os.fsdecode(os.fsencode(own_images / "raw/pool") + b"/\xff.png")).write_bytes(b"")
    with pytest.raises(ChecksFailed, match="not UTF-8"):
        require_fit_for_dvc(None)


@pytest.mark.parametrize("verb", [["dvc", "sync"], ["dvc", "check"], ["plan"]])
def test_every_verb_before_dvc_refuses_it(own_images: Path, verb: list[str]) -> None:
    os.mkfifo(own_images / "raw/pool/pipe")
    result = CliRunner().invoke(app, verb)
    assert isinstance(result.exception, ChecksFailed)


def test_what_kedro_ran_is_no_stage_that_has_not_run(pipeline: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (pipeline / "out").mkdir()
    (pipeline / "out" / "a.txt").write_text("x", encoding="utf-8")
    assert {step.stage: step.reasons for step in make_plan()}["first"] == ("has not run yet",)  # no handle: cut off
    (pipeline / "out" / "handle.json").write_text("{}", encoding="utf-8")
    steps = {step.stage: step for step in make_plan()}
    assert (steps["first"].verdict, *steps["first"].reasons) == ("run", "ran by Kedro alone: DVC has no record of it")
    assert steps["apart"].reasons == ("has not run yet",)
    show(list(steps.values()))
    said = " ".join(capsys.readouterr().out.split())
    assert "`dvc commit --force first` takes the results over as they are" in said
    dvc("commit", "--force", "first")
    assert verdicts()["first"] == "up to date"
