"""Two pipelines at once on one checkout: what shares results is refused, what does not runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from dinomill.commands.dvc_entries import HandleEntry, entry_of
from dinomill.errors import InputError
from dinomill.layers import Layers
from dinomill.planning.checks.others import WRITES
from dinomill.planning.running import READS, refuse_conflicts, refuse_dvc, running
from dinomill.stages import STAGES

_HOLD = """
import sys, time
from pathlib import Path
from dinomill.errors import InputError
from dinomill.storage.lock import held
with held(Path(sys.argv[1]), InputError("busy")):
    print("held", flush=True)
    time.sleep(600)
"""


@contextmanager
def at_work(stage: str, work: str = "data/work") -> Iterator[int]:
    """Another process that holds a stage's lock, as one that runs it does."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, f"{work}/locks/{stage}.lock"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process.pid
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()


def folders(env: str | None = None) -> dict[str, Path]:
    return {name: Path(place) for name, place in Layers(env).globals["folders"].items()}


def test_what_a_stage_reads_and_writes_is_what_its_pipeline_says(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    layers = Layers()
    places = {Path(place).as_posix(): name for name, place in layers.globals["folders"].items()}
    handles = {  # evaluation's probes are a handle within its folder
        name: next(places[one.as_posix()] for one in (found.folder, found.folder.parent) if one.as_posix() in places)
        for name, entry in layers.entries("catalog").items()
        if isinstance(found := entry_of(entry), HandleEntry)
    }
    for stage in STAGES:
        pipeline = import_module(f"dinomill.pipelines.{stage}").create_pipeline()
        read = {handles[name] for name in pipeline.inputs() if name in handles}
        written = {handles[name] for name in pipeline.all_outputs() if name in handles}
        assert read <= set(READS[stage]), stage
        assert written <= {*WRITES[stage], "quality"}, stage


def test_a_stage_waits_for_none_that_it_shares_nothing_with(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    with at_work("curation") as process:
        assert [(one.stage, one.process) for one in running()] == [("curation", process)]
        for stage in ("pretraining", "evaluation", "reporting"):
            with pytest.raises(InputError, match="another process writes") as caught:
                refuse_conflicts(stage, folders())
            assert f"curation (process {process})" in str(caught.value)
    refuse_conflicts("pretraining", folders())  # it has ended, by a kill
    with at_work("pretraining"):
        with pytest.raises(InputError, match="another process reads"):
            refuse_conflicts("curation", folders())
        with pytest.raises(InputError, match="another process writes"):
            refuse_conflicts("distillation", folders())
    with at_work("registration"):
        refuse_conflicts("pretraining", folders() | {"teacher": Path("data/elsewhere")})


def test_environments_that_share_a_dataset_know_of_each_other(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    for name, values in (("shares", {"data": "data/shares", "dataset": "data"}), ("own", {"data": "data/own"})):
        (project / "conf" / name).mkdir()
        work = {"work": f"data/work/{name}"}
        (project / "conf" / name / "globals.yml").write_text(yaml.safe_dump(values | work))
    with at_work("pretraining", "data/work/shares"):
        with pytest.raises(InputError, match="pretraining of shares"):
            refuse_conflicts("curation", folders())
        refuse_conflicts("curation", folders("own"))
        refuse_conflicts("pretraining", folders())
        with pytest.raises(InputError, match="DVC cannot run stages now"):
            refuse_dvc(folders())
        refuse_dvc(folders("own"))


def test_dvc_is_told_before_it_removes_anything(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    program = Path(sys.executable).with_name("dinomill")
    with at_work("pretraining") as process:
        done = subprocess.run([program, "dvc", "check"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"pretraining (process {process})" in done.stderr
    assert "Traceback" not in done.stderr


def test_kedro_refuses_the_second_pipeline(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sample is being laid out: curation, which reads it, does not begin."""
    monkeypatch.chdir(project)
    from tests.conftest import PROJECT

    (project / "data/00_shipped").symlink_to(PROJECT / "data/00_shipped")
    program = Path(sys.executable).with_name("kedro")
    with at_work("curation") as process:
        done = subprocess.run([program, "run", "--pipelines", "sample"], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"curation (process {process})" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (project / "data/01_raw/sample").exists()
