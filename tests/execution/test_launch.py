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

from dinomill.errors import ConfigError, DinomillError, Interrupted
from dinomill.execution.launch import launch
from dinomill.execution.launcher_config import LauncherConfig

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
elif what == "environment":
    (work / f"environment_{rank}").write_bytes(Path(f"/proc/{os.getpid()}/environ").read_bytes())
elif what == "code":
    import dinomill
    (work / f"code_{rank}").write_text(str(Path(dinomill.__file__).parent))
elif what == "s3":
    import boto3
    keys = boto3.Session().get_credentials()
    told = [keys.access_key, keys.secret_key, keys.token, os.environ["AWS_SHARED_CREDENTIALS_FILE"]]
    (work / "keys").write_text("|".join(told))
    (work / f"environment_{rank}").write_bytes(Path(f"/proc/{os.getpid()}/environ").read_bytes())
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

SECRETS = (
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "MLFLOW_TRACKING_PASSWORD"),
    *("MLFLOW_TRACKING_TOKEN", "HF_TOKEN", "SLURM_JWT", "DINOMILL_API_KEY"),
)


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


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("kind", ["inline", "torchrun"])
def test_no_secret_reaches_the_workers_environment(work: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    for name in SECRETS:
        monkeypatch.setenv(name, "hush-hush")
    monkeypatch.setenv("HTTPS_PROXY", "http://me:hush-hush@proxy:3128")
    monkeypatch.setenv("MY_SWITCH", "on")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    run(work, "environment", kind=kind, variables=["MY_SWITCH"])
    environment = (work / "environment_0").read_text()
    assert "hush-hush" not in environment
    assert "MY_SWITCH=on" in environment
    assert "AWS_ENDPOINT_URL=" in environment


def test_keys_for_s3_are_a_file_that_is_gone_with_the_launcher(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SECRETS:
        monkeypatch.setenv(name, "hush-hush")
    monkeypatch.setenv("AWS_PROFILE", "another")
    job = work / "job.json"
    job.write_text("s3")
    launch("a_worker", job, work=work, config=LauncherConfig(), environment={}, s3=True)
    key, secret, token, path = (work / "keys").read_text().split("|")
    assert (key, secret, token) == ("hush-hush",) * 3
    assert not Path(path).exists()
    assert "hush-hush" not in (work / "environment_0").read_text()


def test_a_secret_cannot_be_asked_for() -> None:
    with pytest.raises(ValidationError, match="workers get no secret"):
        LauncherConfig(variables=("HF_TOKEN",))


def test_workers_that_are_started_again_run_the_code_of_before(work: Path) -> None:
    run(work, "code", kind="torchrun", processes=1)
    code = Path((work / "code_0").read_text())
    assert code.is_relative_to(work / "code")
    assert (code / "training" / "worker.py").is_file()
    assert not (code / "pipelines").exists()


def test_machines_without_a_scheduler_meet(work: Path, free_port: int) -> None:
    # The second machine is a second torchrun here; it is started by the printed command, as on another machine.
    def join() -> None:
        while not (work / "node.sh").exists():
            time.sleep(0.05)
        subprocess.run(["bash", str(work / "node.sh"), f"127.0.0.1:{free_port}"], check=True)

    thread = threading.Thread(target=join)
    thread.start()
    run(work, "ok", kind="torchrun", nodes=2, rendezvous=f"127.0.0.1:{free_port}", threads=1)
    thread.join()
    assert [(work / f"done_{rank}").read_text() for rank in (0, 1)] == ["told 1", "told 1"]


def test_nodes_of_torchrun_need_a_place_to_meet() -> None:
    with pytest.raises(ValidationError, match="rendezvous: HOST:PORT"):
        LauncherConfig(kind="torchrun", nodes=2)
    config = LauncherConfig(kind="torchrun", nodes=4, min_nodes=2, processes=8, rendezvous="10.0.0.1:29500")
    assert config.world_sizes == [16, 24, 32]
    with pytest.raises(ValidationError, match="min_nodes is 5, nodes is 4"):
        LauncherConfig(kind="slurm", nodes=4, min_nodes=5)
