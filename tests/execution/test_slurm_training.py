"""The scripts are run by bash, torchrun and workers are real; SLURM's own commands are those of `slurm_here`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from dinomill.errors import ConfigError, DinomillError, Interrupted, MachineError
from dinomill.execution.launch import launch
from dinomill.execution.launcher_config import LauncherConfig
from dinomill.execution.slurm_training import write_scripts

WORKER = """
import os, signal, sys, time
from pathlib import Path
from dinomill.errors import ConfigError, Interrupted
from dinomill.execution.launch import forget_failure, record_failure

place = Path(sys.argv[1]).parent
what, _, folder = Path(sys.argv[1]).read_text().partition(" ")
work = Path(folder)
rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
forget_failure(place, rank, world)
tries = len(list(work.glob(f"try_{rank}_*")))
(work / f"try_{rank}_{tries}").write_text(f"{os.environ['SLURM_RESTART_COUNT']} {os.environ['OMP_NUM_THREADS']}")
(work / f"environment_{rank}").write_bytes(Path(f"/proc/{os.getpid()}/environ").read_bytes())
if what == "config":
    sys.exit(record_failure(place, rank, ConfigError("A key is wrong.")) and 0)
if what == "time-up" and tries == 0:
    record_failure(place, rank, Interrupted("Stopped at step 3.", action="run it again"))
    sys.exit(0)
if what == "die" or (what == "die-once" and tries == 0):
    os.kill(os.getpid(), signal.SIGKILL)
if what == "wait":
    def stop(*_):
        record_failure(place, rank, Interrupted("Stopped at step 3.", action="run it again"))
        sys.exit(0)
    signal.signal(signal.SIGTERM, stop)
    (work / f"ready_{rank}").touch()
    while not (work / "go").exists():
        time.sleep(0.05)
import dinomill
(work / f"done_{rank}").write_text(f"{world} {dinomill.__file__}")
"""


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    work = tmp_path / "it's a stage" / "100% work"  # quotes, spaces, and what begins a pattern in SLURM's names
    work.mkdir(parents=True)
    (tmp_path / "a_slurm_worker.py").write_text(WORKER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return work


def config(port: int, **changes: Any) -> LauncherConfig:
    slurm = {"port": port, "cpus_per_task": 2, "look_every": 0.2}
    values = {"kind": "slurm", "nodes": 1, "restarts": 0, "join_seconds": 1, "slurm": slurm}
    return LauncherConfig.parse(values | changes, where="a test")


def run(work: Path, what: str, launcher: LauncherConfig) -> None:
    job = work / "job.json"
    job.write_text(f"{what} {work}")
    launch("a_slurm_worker", job, work=work, config=launcher, environment={"MLFLOW_RUN_ID": ""})


def test_script_is_valid_and_complete(work: Path) -> None:
    (work / "job.json").write_text("{}")
    slurm = {"partition": "gpu", "options": ["--constraint=h100"], "setup": ["module load cuda"]}
    launcher = LauncherConfig.parse({"kind": "slurm", "nodes": 4, "processes": 8, "slurm": slurm}, where="a test")
    made = write_scripts("dinomill.training.worker", work / "job.json", work=work, config=launcher, environment={})
    script = (made.folder / "train.sbatch").read_text()
    for line in ("--nodes=4", "--gpus-per-node=8", "--partition=gpu", "--constraint=h100", "--signal=TERM@180"):
        assert f"#SBATCH {line}\n" in script
    assert "#SBATCH --requeue\n" in script
    assert "100%% work" in script.split("--output=")[1].splitlines()[0]
    node = made.node.read_text()
    assert "--nnodes=4:4 " in node
    assert "--rdzv-backend=c10d " in node
    assert "export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1\n" in node
    assert node.index("module load cuda") < node.index("export ")
    for path in (made.node, made.folder / "train.sbatch"):
        subprocess.run(["bash", "-n", str(path)], check=True)


def test_fewer_nodes_may_go_on(work: Path) -> None:
    (work / "job.json").write_text("{}")
    launcher = LauncherConfig(kind="slurm", nodes=4, min_nodes=2, processes=8)
    assert launcher.world_sizes == [16, 24, 32]
    made = write_scripts("dinomill.training.worker", work / "job.json", work=work, config=launcher, environment={})
    script = (made.folder / "train.sbatch").read_text()
    assert "#SBATCH --nodes=2-4\n" in script
    assert "--kill-on-bad-exit=0 --no-kill" in script
    assert "--nnodes=2:4 " in made.node.read_text()


def test_two_nodes_meet_and_end_well(work: Path, slurm: Path, free_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = ("AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD", "HF_TOKEN")
    for name in secrets:
        monkeypatch.setenv(name, "hush-hush")
    run(work, "ok", config(free_port, nodes=2))
    for rank in (0, 1):
        world, _, package = (work / f"done_{rank}").read_text().partition(" ")
        assert world == "2"
        assert Path(package).is_relative_to(work / "code")  # not the checkout's, which may be edited meanwhile
        assert "hush-hush" not in (work / f"environment_{rank}").read_text()
    for path in (work / "slurm" / "0001").rglob("*"):
        assert not path.is_file() or "hush-hush" not in path.read_text()
    assert (work / "slurm" / "0001" / "ended").read_text() == "0\n"


def test_a_queued_job_is_not_changed_by_what_is_edited(work: Path, slurm: Path, free_port: int) -> None:
    (work / "job.json").write_text(f"ok {work}")
    launcher = config(free_port)
    made = write_scripts("a_slurm_worker", work / "job.json", work=work, config=launcher, environment={})
    (work / "job.json").write_text(f"config {work}")
    environment = {**os.environ, "SLURM_JOB_ID": "1", "SLURM_JOB_NODELIST": "here", "SLURM_NNODES": "1"}
    environment |= {"SLURM_RESTART_COUNT": "0"}
    subprocess.run(["bash", str(made.folder / "train.sbatch")], env=environment, check=True)
    assert (work / "done_0").exists()


def test_users_error_comes_back_and_is_not_tried_again(work: Path, slurm: Path, free_port: int) -> None:
    with pytest.raises(ConfigError, match="A key is wrong"):
        run(work, "config", config(free_port, restarts=3))
    assert not list(slurm.glob("*.requeued"))
    assert len(list(work.glob("try_0_*"))) == 1


def test_time_that_is_up_puts_it_back_in_the_queue(work: Path, slurm: Path, free_port: int) -> None:
    run(work, "time-up", config(free_port))
    assert [path.read_text()[0] for path in sorted(work.glob("try_0_*"))] == ["0", "1"]
    assert (work / "done_0").exists()


def test_a_node_that_dies_is_tried_again_and_not_for_ever(work: Path, slurm: Path, free_port: int) -> None:
    run(work, "die-once", config(free_port, restarts=1))
    assert (work / "done_0").exists()
    for path in work.glob("try_*"):
        path.unlink()
    with pytest.raises(DinomillError, match="exit code"):
        run(work, "die", config(free_port, restarts=0))


def test_told_to_stop_it_stops_the_job_which_saves(work: Path, slurm: Path, free_port: int) -> None:
    def stop() -> None:
        while not ((work / "ready_0").exists() and (work / "ready_1").exists()):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(Interrupted, match="Stopped at step 3"):
        run(work, "wait", config(free_port, nodes=2))
    thread.join()
    assert not list(slurm.glob("*.requeued"))  # although its workers say the same as when the time is up


def test_killed_it_leaves_the_job_and_the_next_start_waits_for_the_same(
    work: Path, slurm: Path, free_port: int, capfd: pytest.CaptureFixture[str]
) -> None:
    (work / "job.json").write_text(f"wait {work}")
    launcher = config(free_port)
    script = f"""
        from pathlib import Path
        from dinomill.execution.launch import launch
        from dinomill.execution.launcher_config import LauncherConfig
        work = Path({str(work)!r})
        config = LauncherConfig.model_validate_json({launcher.model_dump_json()!r})
        launch("a_slurm_worker", work / "job.json", work=work, config=config, environment={{}})
    """
    waiting = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)])
    while not (work / "ready_0").exists():
        assert waiting.poll() is None
        time.sleep(0.05)
    waiting.kill()
    waiting.wait()
    threading.Timer(1.0, (work / "go").touch).start()
    run(work, "wait", launcher)
    assert (work / "done_0").exists()
    assert len(list((work / "slurm").iterdir())) == 1
    assert "is still there: waiting for it" in capfd.readouterr().err


def test_slurm_missing_says_where_the_script_is(work: Path, free_port: int) -> None:
    with pytest.raises(MachineError, match="sbatch") as caught:
        run(work, "ok", config(free_port))
    assert "train.sbatch" in str(caught.value)
    assert (work / "slurm" / "0001" / "train.sbatch").exists()


def test_keys_of_this_shell_are_no_way_to_s3(work: Path, monkeypatch: pytest.MonkeyPatch, free_port: int) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "hush-hush")
    job = work / "job.json"
    job.write_text("ok")
    with pytest.raises(MachineError, match="its keys stand in this shell") as caught:
        launch("a_slurm_worker", job, work=work, config=config(free_port), environment={}, s3=True)
    assert "~/.aws/credentials" in str(caught.value)
    assert "hush-hush" not in str(caught.value)
