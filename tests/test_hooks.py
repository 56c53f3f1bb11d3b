from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from kedro.pipeline import Pipeline, node
from pydantic import Field

from dinomill.config import Config
from dinomill.distillation.config import DistillationConfig
from dinomill.errors import ConfigError, DinomillError, InputError
from dinomill.hooks import ProjectHooks, check_parameters
from dinomill.planning.checks import ChecksFailed
from dinomill.planning.measured import Measured
from dinomill.stage_runs import StageRuns, stage_of


class Inner(Config):
    threshold: float = Field(default=0.5, ge=0, le=1, description="cosine")


class Outer(Config):
    batch_size: int = Field(ge=1, description="images")
    inner: Inner = Field(default=Inner(), description="nested")


TYPES: dict[str, Any] = {"curation": Outer}


def test_good_parameters_pass() -> None:
    parameters = {"curation": {"batch_size": 8, "inner": {"threshold": 0.1}}, "pretraining": {"anything": 1}}
    check_parameters(parameters, TYPES, "conf/of/{}".format)


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        (
            {"curation": {"batchsize": 8}},
            ["batchsize", "did you mean 'batch_size'", "conf/of/curation.batchsize"],
        ),
        ({"curation": {"batch_size": 0}}, ["curation.batch_size", "greater than or equal to 1", "found 0"]),
        (
            {"curation": {"batch_size": 8, "inner": {"treshold": 1}}},
            ["inner", "did you mean 'threshold'", "conf/of/curation.inner.treshold"],
        ),
        ({"curaton": {}}, ["Unknown parameter 'curaton'", "did you mean 'curation'", "conf/of/curaton"]),
        ({"pretraining": {}}, ["There are no parameters 'curation'", "conf/of/curation"]),
    ],
)
def test_a_wrong_parameter_is_named(parameters: dict[str, Any], said: list[str]) -> None:
    with pytest.raises(DinomillError) as caught:
        check_parameters(parameters, TYPES, "conf/of/{}".format)
    for text in said:
        assert text in str(caught.value)


@pytest.mark.parametrize("runner", ["ParallelRunner", "<kedro.runner.thread_runner.ThreadRunner object at 0x7f>"])
def test_runners_that_lose_hooks_are_refused(runner: str) -> None:
    with pytest.raises(ConfigError, match="one after the other"):
        ProjectHooks().before_pipeline_run({"runner": runner}, Pipeline([]))


def test_the_sequential_runner_is_taken() -> None:
    runner = "<kedro.runner.sequential_runner.SequentialRunner object at 0x7f>"
    ProjectHooks().before_pipeline_run({"runner": runner}, Pipeline([]))
    ProjectHooks().before_pipeline_run({"runner": None}, Pipeline([]))


def test_a_node_belongs_to_the_folder_of_its_function() -> None:
    from dinomill.pipelines.curation import create_pipeline

    assert {stage_of(one) for one in create_pipeline().nodes} == {"curation"}
    assert stage_of(node(len, "a", "b")) is None


def test_a_stage_has_a_run_that_its_workers_find(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    runs = StageRuns()
    runs.begin("curation", tracking_uri=uri, experiment="mine", params={"curation": {"batch_size": 8}})
    first = os.environ["MLFLOW_RUN_ID"]
    runs.end()
    assert "MLFLOW_RUN_ID" not in os.environ
    runs.begin("pretraining", tracking_uri=uri, experiment="mine", params={})
    second = os.environ["MLFLOW_RUN_ID"]
    runs.end(ValueError("broken"))
    runs.end()
    client = MlflowClient(uri)
    assert client.get_run(first).info.status == "FINISHED"
    assert client.get_experiment(client.get_run(first).info.experiment_id).name == "mine"
    assert client.get_run(first).data.params == {"curation.batch_size": "8"}
    assert client.get_run(second).info.status == "FAILED"


def kedro_run(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("kedro")
    return subprocess.run([program, "run", *arguments], cwd=project, capture_output=True, text=True, check=False)


@pytest.fixture
def own_images(project: Path) -> Path:
    """A project with a pool, labels without the split `test`, and another mistake in another stage."""
    from tests.planning.checks.conftest import write_labelled, write_pool

    write_pool(project / "raw/pool", 60)
    write_labelled(project / "raw/labelled", splits=("train",))
    (project / "conf/local/globals.yml").write_text(
        "pool: [raw/pool]\nseeds: null\nlabelled: raw/labelled\n", encoding="utf-8"
    )
    return project


def test_nothing_runs_before_everything_is_checked(own_images: Path) -> None:
    done = kedro_run(own_images, "--params", "distillation.batch_size=16,registration.name=my model")
    assert done.returncode == 1
    shown = done.stdout + done.stderr
    assert "2 things have to be put right before anything runs" in shown
    assert "raw/labelled/test" in shown
    assert "my model" in shown
    assert "labelled in conf/local/globals.yml" in shown
    assert "registration.name in --params" in shown
    assert "Traceback" not in shown
    assert not (own_images / "data/02_intermediate").exists()


def test_a_stage_alone_is_asked_for_its_own_needs(own_images: Path) -> None:
    done = kedro_run(own_images, "--pipelines", "packaging")
    assert done.returncode == 1
    assert "labelled" not in done.stdout + done.stderr


def test_a_stage_that_ends_says_so_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from dinomill.pipelines.sample import create_pipeline

    hooks = ProjectHooks()
    hooks._globals = {"folders": {"work": str(tmp_path / "work"), "sample": "data/01_raw/sample"}}
    (one,) = create_pipeline().nodes
    hooks.before_node_run(one)
    hooks.on_pipeline_error(ValueError("broken"))
    assert capsys.readouterr().out == ""
    hooks.before_node_run(one)
    hooks.before_node_run(one)
    hooks.after_pipeline_run()
    hooks.interrupted(KeyboardInterrupt())
    assert capsys.readouterr().out == "sample: 0 s, results in data/01_raw/sample\n"


def test_what_a_stage_took_is_recorded(tmp_path: Path) -> None:
    from dinomill.pipelines.sample import create_pipeline

    hooks = ProjectHooks()
    hooks._globals = {"folders": {"work": str(tmp_path / "work")}}
    (one,) = create_pipeline().nodes
    for error in (ValueError("broken"), None):
        hooks.before_node_run(one)
        if error:
            hooks.on_pipeline_error(error)
            assert Measured.load(tmp_path / "work").stages == {}
        else:
            hooks.after_pipeline_run()
    took = Measured.load(tmp_path / "work").stages["sample"]
    assert took.seconds < 5
    assert took.memory_bytes > 10_000_000


def test_a_stage_runs_once_at_a_time_in_one_place(tmp_path: Path) -> None:
    """Two runs of one environment emptied each other's folders."""
    first, second, elsewhere = ProjectHooks(), ProjectHooks(), ProjectHooks()
    for hooks, work in ((first, "work"), (second, "work"), (elsewhere, "other")):
        hooks._globals = {"folders": {"work": str(tmp_path / work)}}
    first._begin("curation")
    with pytest.raises(InputError, match="Another process is running the stage curation") as caught:
        second._begin("curation")
    assert f"process {os.getpid()}" in str(caught.value)
    elsewhere._begin("curation")  # another environment
    second._begin("pretraining")  # another stage
    second._end()
    first._end(KeyboardInterrupt())
    second._begin("curation")
    second._end()
    elsewhere._end()


def test_everything_that_is_wrong_is_named_at_once() -> None:
    types = {"distillation": DistillationConfig}
    parameters = {
        "training": {"steps": 0},
        "distillation": {"steps": 0, "bath_size": 3, "champion": 1},
        "evaluation": {"output": "o", "work": "w", "bootstrap": 1},  # a stage that does not run now
    }
    with pytest.raises(ChecksFailed) as found:
        check_parameters(parameters, types, lambda _: "--params")
    for said in (
        "Unknown parameter 'training'; did you mean 'pretraining'?",
        "distillation: unknown key 'bath_size'; did you mean 'batch_size'?",
        "distillation.steps: Input should be greater than",
        "distillation.champion: Input should be a valid string",
        "evaluation.bootstrap: Input should be greater than or equal to 100 (found 1)",
    ):
        assert said in str(found.value)
