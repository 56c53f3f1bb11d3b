"""The real workers, as each launcher starts them: what they know, what is told of them, and that none is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow import MlflowClient

from dinomill import tracking
from dinomill.errors import InputError, Interrupted
from dinomill.execution.launcher_config import LauncherConfig
from dinomill.handles import DatasetHandle
from dinomill.training.hand_on import run_job
from dinomill.training.history import History
from dinomill.training.job import TrainingJob
from dinomill.training.relay import Relay
from tests.execution import slurm_here

MakeJob = Callable[..., TrainingJob]
SECRETS = ("AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD", "HF_TOKEN")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    for name in ("MLFLOW_RUN_ID", "MLFLOW_TRACKING_URI"):
        monkeypatch.setenv(name, "")
    return f"sqlite:///{tmp_path}/mlflow.db"


def launcher(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LauncherConfig:
    values: dict[str, Any] = {"kind": kind, "threads": 1, "processes": 1 if kind == "inline" else 2}
    if kind == "slurm":
        commands = slurm_here.install(tmp_path / "slurm")
        monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
        values["slurm"] = {"port": 29876, "cpus_per_task": 2, "look_every": 0.3}
    return LauncherConfig.parse(values, where="a test")


class Watch:
    """Environments and command lines of all processes of a job, while it runs, from /proc."""

    def __init__(self, job: TrainingJob) -> None:
        self.seen: dict[int, tuple[list[str], bytes]] = {}
        self._word, self._ended = str(job.work), threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(0.1):
            for process in psutil.process_iter():
                try:
                    command = process.cmdline()
                    if any(self._word in word for word in command):
                        # The last look counts: a process that replaces its program keeps its number.
                        environment = Path(f"/proc/{process.pid}/environ").read_bytes()
                        if environment:
                            self.seen[process.pid] = (command, environment)
                except (psutil.Error, OSError):
                    continue


KINDS = ["inline", pytest.param("torchrun", marks=pytest.mark.slow), pytest.param("slurm", marks=pytest.mark.slow)]


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("kind", KINDS)
def test_workers_get_no_secret_and_know_no_kedro(
    kind: str,
    make_job: MakeJob,
    store: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for name in SECRETS:
        monkeypatch.setenv(name, "hush-hush")
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")  # each process names every module that it imports
    job = make_job()
    config = launcher(kind, tmp_path, monkeypatch)
    with tracking.open_run("pretraining", tracking_uri=store) as run, Watch(job) as watch:
        for name, value in run.environment().items():
            monkeypatch.setenv(name, value)
        run_job(job, config, DatasetHandle.load(job.dataset))
    workers = [pid for pid, (command, _) in watch.seen.items() if "dinomill.training.worker" in command]
    assert workers
    # SLURM's own commands are the stand-in's, whose environment is this test's; what they start is looked at.
    ours = [row for row in watch.seen.values() if "-m" in row[0]]
    assert len(ours) >= config.processes
    for command, environment in ours:
        assert b"hush-hush" not in environment, command
    said = capfd.readouterr().err
    said += "".join(path.read_text() for path in job.work.glob("slurm/*/output-*.log"))
    imported = {line.rpartition("|")[2].strip() for line in said.splitlines() if line.startswith("import time:")}
    assert "dinomill.training.trainer" in imported
    assert not [name for name in imported if name.split(".")[0] == "kedro"]
    # The curve is in the MLflow run, whoever wrote it.
    points = MlflowClient(store).get_metric_history(str(run.run_id), "loss")
    assert [point.step for point in points] == [3, 6, 9, 12]


def test_another_store_hears_of_the_training_from_the_process_that_waits(make_job: MakeJob, store: str) -> None:
    job = make_job(recipe={"steps": 20})
    history = History(job.work / "history.jsonl", steps=0, until=20)
    with tracking.open_run("pretraining", tracking_uri=store) as run:
        relay, client = Relay(job, run), MlflowClient(store)

        def steps(name: str) -> list[int]:
            return [point.step for point in client.get_metric_history(str(run.run_id), name)]

        for step in (3, 6):
            history.append({"step": step, "loss": 1.0 / step, "learning_rate": 0.1, "cpu_percent": 50.0})
            relay.pass_on()
        with (job.work / "history.jsonl").open("a") as file:
            file.write('{"step": 9, "lo')  # being written
        relay.pass_on()
        assert steps("loss") == steps("system/cpu_utilization_percentage") == [3, 6]
        # The worker was killed, and makes rows again that the run has; then it goes on, and looks.
        history = History(job.work / "history.jsonl", steps=3, until=20)
        for step in (6, 9):
            history.append({"step": step, "loss": 1.0 / step, "learning_rate": 0.1})
        history.append({"step": 9, "effective_rank": 7.0, "verdict": "healthy", "reason": "it grows"})
        relay.pass_on()
        assert steps("loss") == [3, 6, 9]
        assert steps("effective_rank") == [9]
        tags = client.get_run(str(run.run_id)).data.tags
        assert tags["health"] == "step 9: healthy: it grows"
        # Another process goes on: it knows from the run what that has.
        Relay(job, run).pass_on()
        assert steps("loss") == [3, 6, 9]


def test_what_the_loader_would_find_is_said_before_a_process_is_started(
    make_job: MakeJob, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job()
    dataset = DatasetHandle.load(job.dataset)
    gone = dataset.model_copy(update={"shards": (tmp_path / "nowhere.tar",)})
    monkeypatch.setattr(sys, "executable", "/no/process/is/to/be/started")
    with (
        pytest.raises(InputError, match=r"nowhere\.tar is missing"),
        tracking.open_run("pretraining", tracking_uri=store) as run,
    ):
        for name, value in run.environment().items():
            monkeypatch.setenv(name, value)
        run_job(job, LauncherConfig(), gone)
    found = MlflowClient(store).get_run(str(run.run_id))
    assert found.info.status == "FAILED"
    assert found.data.tags["reason"] == f"InputError: The shard {tmp_path}/nowhere.tar is missing."


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Callable[[TrainingJob, LauncherConfig, str], subprocess.Popen[bytes]]]:
    """The stage's process: what `kedro run` does of it."""
    script = tmp_path / "stage.py"
    script.write_text(
        "import os, sys\n"
        "from pathlib import Path\n"
        "from dinomill import tracking\n"
        "from dinomill.execution.launcher_config import LauncherConfig\n"
        "from dinomill.handles import DatasetHandle\n"
        "from dinomill.training.hand_on import run_job\n"
        "from dinomill.training.job import TrainingJob\n"
        "job = TrainingJob.model_validate_json(sys.argv[1])\n"
        "with tracking.open_run('pretraining', tracking_uri=sys.argv[3]) as run:\n"
        "    os.environ.update(run.environment())\n"
        "    run_job(job, LauncherConfig.model_validate_json(sys.argv[2]), DatasetHandle.load(job.dataset))\n"
    )
    started: list[subprocess.Popen[bytes]] = []

    def start(job: TrainingJob, config: LauncherConfig, store: str) -> subprocess.Popen[bytes]:
        told = [job.model_dump_json(), config.model_dump_json(), store]
        started.append(subprocess.Popen([sys.executable, str(script), *told], start_new_session=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()


def states(store: str) -> list[tuple[str, str]]:
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("dinomill")
    found = client.search_runs([experiment.experiment_id], run_view_type=3)
    return [(run.info.run_id, run.info.status) for run in found]


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["the process", "its group"])
@pytest.mark.parametrize("kind", ["inline", "torchrun"])
def test_killed_and_started_again_there_is_one_run_and_no_orphan(
    kind: str, whom: str, make_job: MakeJob, store: str, stage: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(recipe={"steps": 200}, runtime={"checkpoint_every": 5, "log_every": 5})
    config = launcher(kind, tmp_path, monkeypatch)
    running: list[int] = []
    for turn in range(2):
        process = stage(job, config, store)
        steps = [0]
        aim = 20 * (turn + 1)
        while max(steps) < aim:
            assert process.poll() is None
            steps = [0, *(int(path.parent.name[5:]) for path in job.work.glob("checkpoints/step_*/meta.json"))]
            time.sleep(0.05)
        family = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
        if whom == "the process":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        deadline = time.monotonic() + 90
        while any(psutil.pid_exists(pid) for pid in family):
            running.append(sum(state == "RUNNING" for _, state in states(store)))
            assert time.monotonic() < deadline, "the workers live on"
            time.sleep(0.2)
    process = stage(job, config, store)
    while process.poll() is None:
        running.append(sum(state == "RUNNING" for _, state in states(store)))
        time.sleep(0.2)
    assert process.returncode == 0
    assert max(running) == 1
    found = states(store)
    assert [state for _, state in found].count("FINISHED") == 1
    assert {state for _, state in found} <= {"FINISHED", "KILLED"}
    (finished,) = [run_id for run_id, state in found if state == "FINISHED"]
    points = MlflowClient(store).get_metric_history(finished, "loss")
    assert sorted(point.step for point in points) == list(range(5, 201, 5))


@pytest.mark.slow
def test_slurm_ctrl_c_saves_and_the_same_command_goes_on(
    make_job: MakeJob, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(recipe={"steps": 400}, runtime={"checkpoint_every": 400, "log_every": 5})
    config = launcher("slurm", tmp_path, monkeypatch)

    def stop() -> None:
        while "loss" not in ((job.work / "history.jsonl").read_text() if (job.work / "history.jsonl").exists() else ""):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    thread.start()
    dataset = DatasetHandle.load(job.dataset)
    with pytest.raises(Interrupted, match="its state is saved"):
        run_job(job, config, dataset)
    thread.join()
    assert 0 < max(int(path.parent.name[5:]) for path in job.work.glob("checkpoints/step_*/meta.json")) < 400
    run_job(job, config, dataset)
    assert (job.exported / "student" / "model.safetensors").is_file()
