"""Every stage of the mill, in small: killed in the middle, started again, and the same as if nothing had happened."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from dinomill.handles import (
    DatasetHandle,
    EvaluationHandle,
    ModelHandle,
    PackageHandle,
    RegistrationHandle,
    ReportHandle,
    StudentsHandle,
)
from dinomill.pipeline_registry import STAGES
from tests.conftest import PROJECT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

SMALL: dict[str, dict[str, Any]] = {
    "sample": {
        "originals": 300,
        "scenes": 1,
        "near_duplicates": 30,
        "exact_duplicates": 20,
        "garments": 20,
        "digits": 20,
        "drawings": 20,
        "broken": 16,
        "seeds": 70,
        "bank": 196,
        "queries": 98,
    },
    "pretraining": {"steps": 16, "batch_size": 16},
    "distillation": {"steps": 16, "batch_size": 16},
}


def prepare(project: Path) -> Path:
    """The sample and the trainings in small; one thread each, so that sums are taken in one order."""
    (project / "data/00_shipped").symlink_to(PROJECT / "data/00_shipped")
    for stage, changes in SMALL.items():
        path = project / "conf/base" / stage / "parameters.yml"
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        values[stage] |= changes
        if "steps" in changes:
            values[stage]["launcher"] = {"kind": "inline", "threads": 1}
            values[stage]["runtime"] |= {"checkpoint_every": 4, "log_every": 4}
            values[stage]["runtime"]["monitor"] = {"every": 8, "images": 64, "labelled_images": 100}
        path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return project


def start(project: Path, stage: str) -> subprocess.Popen[str]:
    program = Path(sys.executable).with_name("kedro")
    return subprocess.Popen(
        [program, "run", "--pipelines", stage],
        cwd=project,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(project: Path, stage: str) -> float:
    """Run a stage to its end; how many seconds it took."""
    begun = time.monotonic()
    process = start(project, stage)
    shown, _ = process.communicate(timeout=600)
    assert process.returncode == 0, shown
    return time.monotonic() - begun


def kill(project: Path, stage: str, after: float) -> bool:
    """End a stage and all that it started as the system would: without a word. Whether it was still running."""
    process = start(project, stage)
    try:
        process.communicate(timeout=after)
    except subprocess.TimeoutExpired:
        family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
        for member in family:
            try:
                member.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue
        process.communicate()
        return True
    return False


def handles(project: Path) -> dict[Path, Any]:
    """Every handle that is there, parsed: one that was half written would not be."""
    return {
        path: json.loads(path.read_text(encoding="utf-8")) for path in sorted(project.glob("data/0*/**/handle.json"))
    }


def results(project: Path) -> dict[str, Any]:
    """What must not depend on when a run was killed."""
    data = project / "data"
    before = Path.cwd()
    os.chdir(project)  # handles name their files as seen from the project
    try:
        evaluation = EvaluationHandle.load(data / "07_model_output/evaluation")
        students = StudentsHandle.load(data / "06_models/students").students
        registered = RegistrationHandle.load(data / "07_model_output/registration")
        package = PackageHandle.load(data / "07_model_output/package")
        page = ReportHandle.load(data / "08_reporting").page.read_text(encoding="utf-8")
        return {
            "manifest": DatasetHandle.load(data / "05_model_input/curated").manifest_sha256,
            "teacher": ModelHandle.load(data / "06_models/teacher").weights_sha256,
            "students": {name: student.weights_sha256 for name, student in students.items()},
            "scores": [(score.model, score.scores) for score in evaluation.scores],
            "registered": (registered.version, registered.weights_sha256, registered.gate),
            "package": (package.version, package.smoke["cosine"] > 0.999),
            "page": "</html>" in page,
        }
    finally:
        os.chdir(before)


def test_every_stage_killed_and_started_again_gives_the_same(
    project: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    prepare(project)
    seconds = {stage: finish(project, stage) for stage in STAGES}
    expected = results(project)

    # The same place anew: what is handed on names its files, so that they have to lie where they lay.
    (project / "data").rename(tmp_path_factory.mktemp("whole") / "data")
    (project / "data").mkdir()
    (project / "data/00_shipped").symlink_to(PROJECT / "data/00_shipped")
    # A stage may be done sooner than it was the first time, on a machine that others use: hence before its middle.
    killed = 0
    for stage in STAGES:
        killed += kill(project, stage, 0.45 * seconds[stage])
        handles(project)
        finish(project, stage)
    assert killed >= len(STAGES) - 2
    assert results(project) == expected
    left = [one for one in psutil.process_iter(["cmdline"]) if str(project) in " ".join(one.info["cmdline"] or [])]
    assert not left
