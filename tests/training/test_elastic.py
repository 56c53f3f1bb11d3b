"""Nodes that are lost and that come back: two torchruns that meet on loopback stand for two machines."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from dinomill.execution.launcher_config import LauncherConfig
from dinomill.execution.node_script import meeting, new_submission, node_script
from dinomill.training.history import History
from dinomill.training.job import TrainingJob
from dinomill.training.parallel import World
from dinomill.training.trainer import train
from tests.training.test_ranks import alike

MakeJob = Callable[..., TrainingJob]
WORKER = "dinomill.training.worker"
Node = Callable[[], "subprocess.Popen[bytes]"]


def free_port() -> int:
    with socket.socket() as connection:
        connection.bind(("127.0.0.1", 0))
        return int(connection.getsockname()[1])


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Callable[[TrainingJob], Node]]:
    """For a job: something that starts one more node by the script that SLURM would start on it."""
    started: list[subprocess.Popen[bytes]] = []

    def prepare(job: TrainingJob) -> Node:
        config = LauncherConfig.parse(
            {"kind": "slurm", "nodes": 2, "min_nodes": 1, "join_seconds": 4, "threads": 1}, where="a test"
        )
        submission = new_submission(job.save(), work=job.work, kind="slurm")
        script = node_script(WORKER, submission, config=config, rendezvous=meeting(config, "a-test"), cores=1)
        submission.node.write_text(script)
        port = free_port()

        def start() -> subprocess.Popen[bytes]:
            with (tmp_path / f"node_{len(started)}.log").open("wb") as log:
                node = subprocess.Popen(
                    ["bash", str(submission.node), f"127.0.0.1:{port}"], stdout=log, stderr=log, start_new_session=True
                )
            started.append(node)
            return node

        return start

    yield prepare
    for node in started:
        for process in family(node):
            process.kill()


def family(node: subprocess.Popen[bytes]) -> list[psutil.Process]:
    try:
        process = psutil.Process(node.pid)
        return [*process.children(recursive=True), process]
    except psutil.NoSuchProcess:
        return []


def told(process: psutil.Process) -> list[str]:
    """Its command line; nothing when it has ended."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def meets(node: subprocess.Popen[bytes]) -> bool:
    """Whether a node has reached the place where nodes meet."""
    for process in family(node):
        with suppress(psutil.Error):
            if any(one.status == psutil.CONN_ESTABLISHED for one in process.net_connections("tcp")):
                return True
    return False


def wait_for(what: Callable[[], bool], *alive: subprocess.Popen[bytes], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        for node in alive:
            assert node.poll() is None
        time.sleep(0.05)


def last_step(job: TrainingJob) -> int:
    steps = [int(path.parent.name[5:]) for path in job.work.glob("checkpoints/step_*/meta.json")]
    return max(steps, default=0)


def worlds(job: TrainingJob) -> list[int]:
    """By how many processes the checkpoints were written, in order: each writes a part."""
    folders = sorted(job.work.glob("checkpoints/step_*"))
    return [len(list(folder.glob("part_*.safetensors"))) for folder in folders]


def compare(job: TrainingJob, alone: TrainingJob) -> None:
    """The curve has each step once, and it and the weights are those of one process."""
    rows = [History(one.work / "history.jsonl", steps=9999, writes=False).rows for one in (job, alone)]
    mine, other = ([(row["step"], row["loss"]) for row in side if "loss" in row] for side in rows)
    assert [step for step, _ in mine] == [step for step, _ in other]
    assert [loss for _, loss in mine] == pytest.approx([loss for _, loss in other], rel=1e-4)
    expected = load_file(alone.exported / "student" / "model.safetensors")
    for name, tensor in load_file(job.exported / "student" / "model.safetensors").items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-4)


CHANGES: dict[str, Any] = alike(recipe={"steps": 120}, runtime={"log_every": 10, "checkpoint_every": 10, "keep": 100})


@pytest.mark.slow
def test_one_node_is_killed_and_the_other_goes_on(
    make_job: MakeJob, nodes: Callable[[TrainingJob], Node], tmp_path: Path
) -> None:
    job = make_job(work_root=tmp_path / "elastic", **CHANGES)
    start = nodes(job)
    first = start()  # where they meet
    time.sleep(2)
    second = start()
    wait_for(lambda: last_step(job) >= 30, first, second)
    workers = [process for process in family(second) if process.pid != second.pid]
    os.kill(second.pid, signal.SIGKILL)  # torchrun and worker must go with it: nobody is left to end them
    begun = time.monotonic()
    wait_for(lambda: all(not process.is_running() or process.status() == "zombie" for process in workers), seconds=20)
    second.wait()
    killed_at = last_step(job)
    wait_for(lambda: last_step(job) > killed_at + 10 or first.poll() is not None)
    print(f"killed after step {killed_at}; goes on {time.monotonic() - begun:.1f} s later", file=sys.stderr)
    assert first.wait(300) == 0, (tmp_path / "node_0.log").read_text()[-3000:]
    found = worlds(job)
    assert found == sorted(found, reverse=True) and set(found) == {1, 2}
    alone = make_job(work_root=tmp_path / "alone", **CHANGES)
    train(alone, World(0, 1, torch.device("cpu")))
    compare(job, alone)


@pytest.mark.slow
def test_a_node_that_comes_late_is_taken_in(
    make_job: MakeJob, nodes: Callable[[TrainingJob], Node], tmp_path: Path
) -> None:
    job = make_job(work_root=tmp_path / "elastic", **CHANGES)
    start = nodes(job)
    first = start()
    wait_for(lambda: last_step(job) >= 20, first)
    # So few steps would be done before the second one has started: the worker waits for it.
    named = [process for process in family(first) if told(process)[-2:-1] == [WORKER]]  # torchrun and its script, too
    (worker,) = [process for process in named if not {process.pid} & {other.ppid() for other in named}]
    worker.suspend()
    second = start()
    wait_for(lambda: meets(second), first, second)
    time.sleep(1)  # to ask to be taken in
    worker.resume()
    assert first.wait(400) == 0, (tmp_path / "node_0.log").read_text()[-3000:]
    assert second.wait(60) == 0, (tmp_path / "node_1.log").read_text()[-3000:]
    assert not list((job.work / "slurm" / "0001").glob("failures/*.json"))
    found = worlds(job)
    assert found == sorted(found) and set(found) == {1, 2}
    alone = make_job(work_root=tmp_path / "alone", **CHANGES)
    train(alone, World(0, 1, torch.device("cpu")))
    compare(job, alone)
