"""Several processes as one: the same steps however they share the work, checkpoints that move, faults of one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from dinomill.training.history import History
from dinomill.training.job import TrainingJob
from dinomill.training.parallel import World
from dinomill.training.trainer import train

MakeJob = Callable[..., TrainingJob]
StartWorker = Callable[..., "subprocess.Popen[str]"]
HERE = World(0, 1, torch.device("cpu"))

# What a batch of 16 and its parts do alike: no stochastic depth; no mask, which is drawn for each process; no neighbour
# in KoLeo, which is sought in a process's own images.
ALIKE: dict[str, Any] = {
    "recipe": {"masking": {"fraction": 0}, "steps": 50},
    "step": {"drop_path": 0, "losses": {"koleo_weight": 0, "ibot_weight": 0}},
    "runtime": {"log_every": 1, "checkpoint_every": 10, "keep": 10},
}


def alike(**changes: Any) -> dict[str, Any]:
    return {key: value | changes.get(key, {}) for key, value in ALIKE.items()}


def losses(job: TrainingJob) -> list[float]:
    rows = History(job.work / "history.jsonl", steps=1000, writes=False).rows
    return [row["loss"] for row in rows if "loss" in row]


def weights(job: TrainingJob) -> dict[str, torch.Tensor]:
    return load_file(job.exported / "student" / "model.safetensors")


def finished(process: subprocess.Popen[str], seconds: float = 300) -> str:
    _, errors = process.communicate(timeout=seconds)
    assert process.returncode == 0, errors
    return errors


def equal(job: TrainingJob, other: TrainingJob) -> None:
    assert losses(job) == pytest.approx(losses(other), rel=1e-4)
    expected = weights(other)
    for name, tensor in weights(job).items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("kind", ["ddp", "fsdp2", "hsdp"])
@pytest.mark.parametrize("processes", [2, 4])
def test_fifty_steps_are_those_of_one_process(
    make_job: MakeJob, start_worker: StartWorker, tmp_path: Path, processes: int, kind: str, accumulate: int
) -> None:
    alone = make_job(work_root=tmp_path / "alone", **alike())
    train(alone, HERE)
    parallel = {"kind": kind} | ({"replicas": 2} if kind == "hsdp" else {})
    changes = alike(recipe={"accumulate": accumulate}, runtime={"parallel": parallel})
    job = make_job(work_root=tmp_path / "several", **changes)
    finished(start_worker(job, processes=processes))
    equal(job, alone)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_a_checkpoint_moves_from_four_processes_to_one_to_two(
    make_job: MakeJob, start_worker: StartWorker, tmp_path: Path, kind: str
) -> None:
    alone = make_job(work_root=tmp_path / "alone", **alike())
    train(alone, HERE)
    job = make_job(work_root=tmp_path / "moving", **alike(runtime={"parallel": {"kind": kind}}))
    for processes, reached in ((4, 20), (0, 40), (2, 50)):
        if processes:
            finished(start_worker(job, processes=processes))
        else:
            train(make_job(work_root=tmp_path / "moving", **alike()), HERE)
        meta = json.loads((job.work / "checkpoints" / f"step_{reached:08d}" / "meta.json").read_text())
        assert meta["world_size"] == max(processes, 1)
        if reached < 50:  # what was done after it is undone, as by a kill
            for later in range(reached + 10, 60, 10):
                shutil.rmtree(job.work / "checkpoints" / f"step_{later:08d}")
            shutil.rmtree(job.exported)
    equal(job, alone)


@pytest.mark.slow
def test_a_process_that_dies_takes_the_others_with_it_and_all_go_on(
    make_job: MakeJob, start_worker: StartWorker, tmp_path: Path
) -> None:
    job = make_job(work_root=tmp_path / "killed", recipe={"steps": 60})
    process = start_worker(job, processes=2, restarts=1)
    while not list(job.work.glob("checkpoints/step_*/meta.json")):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    ranks = {child.environ().get("RANK"): child for child in psutil.Process(process.pid).children()}
    ranks["1"].send_signal(signal.SIGKILL)
    errors = finished(process)
    assert "continues after step" in errors
    assert not list((job.work / "failures").glob("*"))
    whole = make_job(work_root=tmp_path / "whole", recipe={"steps": 60})
    finished(start_worker(whole, processes=2))
    assert all(torch.equal(tensor, weights(whole)[name]) for name, tensor in weights(job).items())


# --- two processes of a script of a few lines, which ends in seconds ---

BEGINNING = """
    import json, sys
    from pathlib import Path
    import torch
    from dinomill.errors import DinomillError
    from dinomill.training.config import ParallelConfig
    from dinomill.training.parallel import world

    folder = Path(sys.argv[1])
    def tell(here, what):
        (folder / f"said_{here.rank}.json").write_text(json.dumps(what))
    with world(ParallelConfig(timeout_minutes=1), "cpu") as here:
"""


def together(tmp_path: Path, script: str) -> list[Any]:
    """What two processes tell."""
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(BEGINNING) + textwrap.indent(textwrap.dedent(script), " " * 8))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(tmp_path)], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return [json.loads((tmp_path / f"said_{rank}.json").read_text()) for rank in (0, 1)]


def test_the_main_process_decides_and_its_error_is_all_processes(tmp_path: Path) -> None:
    said = together(
        tmp_path,
        """
        from dinomill.errors import InputError
        from dinomill.training.agreement import Agreement

        agreement = Agreement(here)
        found = agreement.decided(lambda: {"rank": here.rank, "text": "ü" * 1000})
        gathered = agreement.gathered("x" * (here.rank + 1))
        def fail():
            raise InputError("A file is missing.", found="nothing", action="look")
        try:
            agreement.decided(fail)
        except InputError as error:
            tell(here, [found, gathered, str(error)])
        """,
    )
    assert said[0] == said[1] == [{"rank": 0, "text": "ü" * 1000}, ["x", "xx"], said[0][2]]
    assert said[0][2].startswith("A file is missing.\n  found: nothing")


def test_a_wish_to_stop_is_known_to_all_one_step_later(tmp_path: Path) -> None:
    said = together(
        tmp_path,
        """
        from dinomill.training.agreement import Vote

        vote = Vote(here)
        answers = [vote.ask(here.rank == 1 and step == 3) for step in range(6)]
        vote.close()
        tell(here, answers)
        """,
    )
    assert said[0] == said[1] == [False, False, False, False, True, False]


def test_a_checkpoint_that_another_process_cannot_read_is_an_error_of_all(tmp_path: Path) -> None:
    said = together(
        tmp_path,
        """
        from torch import nn
        from dinomill.training import checkpoint_reader
        from dinomill.training.checkpoint import Checkpoints

        checkpoint_reader._STALE_SECONDS = 1.0
        module = nn.Linear(4, 4)
        optimizer = torch.optim.AdamW(module.parameters())
        store = Checkpoints(folder / "checkpoints", world=here, identity={})
        store.save(7, module, optimizer, last=True)
        # The second machine has mounted something else there.
        place = folder / "checkpoints" if here.is_main else folder / "elsewhere"
        store = Checkpoints(place, world=here, identity={})
        try:
            tell(here, store.load(module, optimizer))
        except DinomillError as error:
            tell(here, [type(error).__name__, str(error)])
        """,
    )
    for kind, text in said:
        assert kind == "StorageError"
        assert "Process 1 on" in text
        assert "which process 0 can" in text


def test_a_stale_listing_leads_no_process_elsewhere(tmp_path: Path) -> None:
    # The second process's folder lacks the newest checkpoint until later, as a cached listing would show it.
    said = together(
        tmp_path,
        """
        import shutil, threading
        from torch import nn
        from dinomill.training.checkpoint import Checkpoints

        module = nn.Linear(4, 4)
        optimizer = torch.optim.AdamW(module.parameters())
        store = Checkpoints(folder / "checkpoints", world=here, identity={})
        for step in (1, 2):
            store.save(step, module, optimizer, last=True)
        place = folder / "checkpoints" if here.is_main else folder / "cached"
        if not here.is_main:
            shutil.copytree(folder / "checkpoints" / "step_00000001", place / "step_00000001")
            later = (folder / "checkpoints" / "step_00000002", place / "step_00000002")
            threading.Timer(2.0, shutil.copytree, later).start()
        tell(here, Checkpoints(place, world=here, identity={}).load(module, optimizer)[0])
        """,
    )
    assert said == [2, 2]


def test_a_damaged_part_of_one_process_sends_all_to_the_one_before(tmp_path: Path) -> None:
    said = together(
        tmp_path,
        """
        from torch import nn
        from dinomill.training.checkpoint import Checkpoints

        module = nn.Linear(64, 64)
        optimizer = torch.optim.AdamW(module.parameters())
        store = Checkpoints(folder / "checkpoints", world=here, identity={})
        for step in (1, 2):
            store.save(step, module, optimizer, last=True)
        parts = sorted((folder / "checkpoints" / "step_00000002").glob("part_*"))
        if not here.is_main:
            data = bytearray(parts[1].read_bytes())
            data[-1] ^= 1
            parts[1].write_bytes(data)
        torch.distributed.barrier()
        tell(here, [store.load(module, optimizer)[0], len(parts)])
        """,
    )
    assert said[0] == said[1] == [1, 2]


@pytest.mark.parametrize("kind", [pytest.param("ddp", marks=pytest.mark.slow), "fsdp2"])
def test_one_process_s_bad_batch_leaves_out_the_step_of_all_and_only_its_images_are_named(
    make_job: MakeJob, tmp_path: Path, kind: str
) -> None:
    job = make_job(runtime={"parallel": {"kind": kind}, "log_every": 1}, recipe={"steps": 4})
    job.save()
    said = together(
        tmp_path,
        f"""
        from dinomill.training.engine import Engine
        from dinomill.training.job import TrainingJob
        from dinomill.training.trainer import train

        job = TrainingJob.load(Path({str(job.work / "job.json")!r}))
        original = Engine.step
        def poisoned(self, step, batches):
            if here.rank == 1 and step == 2:
                batches[0].local_crops[0, 0, 0, 0] = torch.nan
                tell(here, batches[0].indices.tolist())
            return original(self, step, batches)
        Engine.step = poisoned
        (folder / "said_0.json").write_text("null")
        train(job, here)
        """,
    )
    (named,) = [json.loads(line) for line in (job.work / "not_finite.jsonl").read_text().splitlines()]
    assert (named["step"], named["processes"]) == (3, [1])
    assert named["images"] == [f"{row}.png" for row in said[1]]
    rows = History(job.work / "history.jsonl", steps=9, writes=False).rows
    assert [row["skipped"] for row in rows] == [0, 0, 1, 0]
    assert all(tensor.isfinite().all() for tensor in weights(job).values())
