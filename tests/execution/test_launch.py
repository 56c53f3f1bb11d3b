from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from pydantic import ValidationError

from dinomill.errors import ConfigError, DinomillError, Interrupted, MachineError
from dinomill.execution.launch import LauncherConfig, SlurmConfig, launch, slurm_script

WORKER = """
import json, os, signal, sys, time
from pathlib import Path
from dinomill.errors import ConfigError, Interrupted
from dinomill.execution.launch import forget_failure, record_failure

work = Path(sys.argv[1]).parent
rank = int(os.environ.get("RANK", "0"))
what = Path(sys.argv[1]).read_text()
forget_failure(work, rank)
if what == "ok":
    (work / f"done_{rank}").write_text(os.environ["EXTRA"] + " " + os.environ["OMP_NUM_THREADS"])
elif what == "config":
    sys.exit(record_failure(work, rank, ConfigError("A key is wrong.", found="7", expected="8", action="write 8")))
elif what == "crash":
    raise ZeroDivisionError("a bug")
elif what == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
elif what == "die once":
    if rank == 1 and not (work / "died").exists():
        (work / "died").touch()
        record_failure(work, rank, ConfigError("A message of before."))
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0 if (work / "died").exists() and rank == 1 else 3)
    (work / f"done_{rank}").write_text(os.environ["TORCHELASTIC_RESTART_COUNT"])
elif what == "wait":
    def stop(*_):
        sys.exit(record_failure(work, rank, Interrupted("Stopped at step 3.", action="run it again")))
    signal.signal(signal.SIGTERM, stop)
    (work / f"ready_{rank}").touch()
    time.sleep(60)
elif what == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    (work / f"ready_{rank}").touch()
    time.sleep(60)
"""


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "a_worker.py").write_text(WORKER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return tmp_path


def run(work: Path, what: str, **config: object) -> None:
    job = work / "job.json"
    job.write_text(what)
    launch("a_worker", job, work=work, config=LauncherConfig(**config), environment={"EXTRA": "told"})


def signal_when(ready: list[Path], *numbers: int) -> threading.Thread:
    """Signals this process once every worker listens: one that does not yet would die of it without a word."""

    def send() -> None:
        deadline = time.monotonic() + 60
        while not all(path.exists() for path in ready) and time.monotonic() < deadline:
            time.sleep(0.05)
        for number in numbers:
            os.kill(os.getpid(), number)
            time.sleep(0.3)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


def test_one_child_gets_the_environment_and_the_cores(work: Path) -> None:
    run(work, "ok")
    assert (work / "done_0").read_text() == f"told {os.cpu_count()}"


def test_torchrun_starts_all_processes(work: Path) -> None:
    run(work, "ok", kind="torchrun", processes=2, threads=1)
    assert [(work / f"done_{rank}").read_text() for rank in (0, 1)] == ["told 1", "told 1"]


def test_users_error_comes_back_whole(work: Path) -> None:
    with pytest.raises(ConfigError, match="A key is wrong") as caught:
        run(work, "config")
    assert (caught.value.found, caught.value.expected, caught.value.action) == ("7", "8", "write 8")


def test_users_error_comes_back_through_torchrun(work: Path) -> None:
    with pytest.raises(ConfigError, match="A key is wrong"):
        run(work, "config", kind="torchrun", processes=2)


def test_crash_and_kill_say_how(work: Path) -> None:
    with pytest.raises(DinomillError, match="exit code 1"):
        run(work, "crash")
    with pytest.raises(DinomillError, match="memory ran out"):
        run(work, "killed")


def test_a_dead_process_and_all_others_are_started_again(work: Path) -> None:
    run(work, "die once", kind="torchrun", processes=2)
    assert [(work / f"done_{rank}").read_text() for rank in (0, 1)] == ["1", "1"]
    assert not list((work / "failures").iterdir())


def test_it_is_not_started_again_for_ever(work: Path) -> None:
    with pytest.raises(DinomillError, match="exit code 1"):
        run(work, "killed", kind="torchrun", processes=2, restarts=1)


def test_fewer_nodes_may_go_on(work: Path) -> None:
    config = LauncherConfig(kind="slurm", nodes=4, min_nodes=2, processes=8)
    assert config.world_sizes == [16, 24, 32]
    script = slurm_script("dinomill.training.worker", work / "a job.json", work=work, config=config)
    assert "--nnodes=2:4 " in script
    assert "--kill-on-bad-exit=0" in script
    assert f"'{work}/a job.json'" in script
    with pytest.raises(ValidationError, match="min_nodes is 5, nodes is 4"):
        LauncherConfig(kind="slurm", nodes=4, min_nodes=5)


def test_old_failures_are_forgotten(work: Path) -> None:
    with pytest.raises(ConfigError):
        run(work, "config")
    with pytest.raises(DinomillError, match="exit code 1"):
        run(work, "crash")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_reaches_the_worker_which_saves(work: Path, number: int) -> None:
    before = signal.getsignal(number)
    thread = signal_when([work / "ready_0"], number)
    with pytest.raises(Interrupted, match="Stopped at step 3"):
        run(work, "wait")
    thread.join()
    assert signal.getsignal(number) is before


def test_signal_reaches_all_workers_of_torchrun(work: Path) -> None:
    thread = signal_when([work / "ready_0", work / "ready_1"], signal.SIGTERM)
    with pytest.raises(Interrupted, match="Stopped at step 3"):
        run(work, "wait", kind="torchrun", processes=2)
    thread.join()
    assert len(list((work / "failures").iterdir())) == 2


def test_second_signal_ends_a_deaf_worker(work: Path) -> None:
    thread = signal_when([work / "ready_0"], signal.SIGINT, signal.SIGINT)
    with pytest.raises(Interrupted, match="before it could save"):
        run(work, "deaf")
    thread.join()


def test_ctrl_c_of_a_terminal_reaches_the_worker_once(work: Path) -> None:
    # A terminal signals the whole foreground group; the worker must hear it from the launcher alone.
    (work / "job.json").write_text("wait")
    script = f"""
        from pathlib import Path
        from dinomill.execution.launch import LauncherConfig, launch
        work = Path({str(work)!r})
        launch("a_worker", work / "job.json", work=work, config=LauncherConfig(), environment={{}})
    """
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], start_new_session=True, stderr=subprocess.PIPE, text=True
    )
    while not (work / "ready_0").exists():
        assert parent.poll() is None
        time.sleep(0.05)
    os.killpg(parent.pid, signal.SIGINT)
    _, errors = parent.communicate(timeout=60)
    assert "Interrupted: Stopped at step 3." in errors
    assert (work / "failures" / "rank_0.json").exists()


def test_slurm_script_is_valid_and_complete(work: Path) -> None:
    config = LauncherConfig(
        kind="slurm", nodes=4, processes=8, slurm=SlurmConfig(partition="gpu", options=("--constraint=h100",))
    )
    script = slurm_script("dinomill.training.worker", work / "job.json", work=work, config=config)
    path = work / "train.sbatch"
    path.write_text(script)
    subprocess.run(["bash", "-n", str(path)], check=True)
    for line in ("--nodes=4", "--gpus-per-node=8", "--partition=gpu", "--constraint=h100", "--signal=TERM@180"):
        assert f"#SBATCH {line}\n" in script
    assert "--nnodes=4 --nproc-per-node=8" in script
    assert "export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1\n" in script


def test_slurm_script_runs_its_task(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The commands of SLURM that the script calls, for one node; torchrun and the worker are the real ones.
    commands = work / "bin"
    commands.mkdir()
    for name, text in {
        "srun": 'while [[ "$1" == --* ]]; do shift; done; exec "$@"',
        "scontrol": f'if [ "$1" = requeue ]; then touch {work}/requeued; else echo 127.0.0.1; fi',
        "sbatch": '[ "$1" = --wait ] && SLURM_JOB_ID=7 SLURM_JOB_NODELIST=here exec bash "$2"',
    }.items():
        (commands / name).write_text(f"#!/bin/bash\n{text}\n")
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    slurm = SlurmConfig(port=free_port(), cpus_per_task=2)
    run(work, "ok", kind="slurm", processes=2, slurm=slurm)
    assert (work / "done_1").exists()
    assert not (work / "requeued").exists()
    with pytest.raises(ConfigError, match="A key is wrong"):
        run(work, "config", kind="slurm", processes=1, slurm=slurm)


def test_slurm_missing_says_where_the_script_is(work: Path) -> None:
    with pytest.raises(MachineError, match="sbatch") as caught:
        run(work, "ok", kind="slurm")
    assert "train.sbatch" in str(caught.value)
    assert (work / "slurm" / "train.sbatch").exists()


def free_port() -> int:
    import socket

    with socket.socket() as connection:
        connection.bind(("127.0.0.1", 0))
        return int(connection.getsockname()[1])
