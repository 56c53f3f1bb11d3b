from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from dinomill.errors import InputError, MachineError
from dinomill.execution.tasks import ExecutionConfig, Task, TaskResult, run_tasks
from dinomill.storage.atomic import write_text

INLINE = ExecutionConfig(executor="inline")
TWO = ExecutionConfig(executor="processes", workers=2)


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers import this module by its name, and are given this process's path."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))


class Square(Task):
    number: int
    folder: Path
    behave: str = "well"


class Squared(TaskResult):
    value: int
    threads: str = ""
    imported: bool = False  # what tasks look at images with, before this one asked for it


def square(task: Square) -> Squared:
    if task.behave == "raise":
        raise InputError(f"task {task.number} cannot", action="nothing")
    if task.behave == "die" or (task.behave == "die once" and not (task.folder / "died").exists()):
        (task.folder / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if task.behave == "long":
        (task.folder / f"begun-{task.number}").touch()
        time.sleep(60)
    if task.behave == "slowly":
        time.sleep(0.3)
    imported = {"torch", "cv2", "pandas", "pyarrow.dataset"} <= set(sys.modules)
    path = task.folder / f"{task.number}.txt"
    with (task.folder / "calls").open("a") as calls:
        calls.write(f"{task.number}\n")
    write_text(path, str(task.number**2))
    return Squared(
        outputs=(path,), value=task.number**2, threads=os.environ.get("OMP_NUM_THREADS", ""), imported=imported
    )


def _calls(folder: Path) -> list[int]:
    return sorted(int(line) for line in (folder / "calls").read_text().split())


def _tasks(folder: Path, numbers: range, **more: str) -> list[Square]:
    return [Square(number=number, folder=folder, **more) for number in numbers]


def _run(folder: Path, tasks: list[Square], config: ExecutionConfig) -> list[int]:
    found = run_tasks(square, tasks, Squared, done=folder / "done", config=config, name="squares", unit="numbers")
    return [one.value for one in found]


@pytest.mark.parametrize("config", [INLINE, TWO], ids=["inline", "processes"])
def test_results_come_in_the_order_of_the_tasks(tmp_path: Path, config: ExecutionConfig) -> None:
    assert _run(tmp_path, _tasks(tmp_path, range(9)), config) == [number**2 for number in range(9)]


@pytest.mark.slow
def test_ray_data_gives_the_same_results_and_errors_and_outlives_a_killed_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On one local cluster, which takes half a minute to start and stop when the machine is busy."""
    ray = pytest.importorskip("ray")
    root = str(Path(__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", root)  # Ray's workers are started afresh
    on_ray = ExecutionConfig(executor="ray", workers=2)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)  # run_tasks uses a cluster that is there
    try:
        assert _run(tmp_path, _tasks(tmp_path, range(5)), on_ray) == [number**2 for number in range(5)]
        assert _run(tmp_path, _tasks(tmp_path, range(7)), on_ray) == [number**2 for number in range(7)]
        assert _calls(tmp_path) == list(range(7))
        with pytest.raises(InputError, match="task 9 cannot"):
            _run(tmp_path, _tasks(tmp_path, range(9, 10), behave="raise"), on_ray)
        _run(tmp_path, _tasks(tmp_path, range(11, 12), behave="die once"), on_ray)
        with pytest.raises(MachineError, match="Ray lost a shard task"):
            _run(tmp_path, _tasks(tmp_path, range(12, 13), behave="die"), on_ray)
    finally:
        ray.shutdown()


@pytest.mark.slow
def test_ray_starts_and_ends_a_cluster_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    tasks = _tasks(tmp_path, range(4))
    on_ray = ExecutionConfig(executor="ray", workers=2)
    found = run_tasks(square, tasks, Squared, done=tmp_path / "done", config=on_ray, name="squares")
    assert {one.threads for one in found} == {"1"}
    assert not ray.is_initialized()


def test_slurm_without_a_cluster_leaves_a_script_to_submit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with pytest.raises(MachineError, match="no sbatch") as caught:
        _run(tmp_path, _tasks(tmp_path, range(3)), ExecutionConfig(executor="slurm", workers=2))
    script = tmp_path / "slurm" / "array.sh"
    assert str(script) in str(caught.value)
    assert "--array=0-2%2" in script.read_text()


def test_the_elements_of_a_slurm_array_finish_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``sbatch`` here runs the generated script once an element, as SLURM would on its nodes."""
    slurm = ExecutionConfig(executor="slurm", workers=2)
    sbatch = tmp_path / "bin" / "sbatch"
    write_text(sbatch, '#!/bin/bash\nfor i in 0 1 2; do SLURM_ARRAY_TASK_ID=$i bash "$2" || exit 1; done\n')
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", str(sbatch.parent), prepend=os.pathsep)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    assert _run(tmp_path, _tasks(tmp_path, range(3)), slurm) == [0, 1, 4]
    assert _run(tmp_path, _tasks(tmp_path, range(3)), INLINE) == [0, 1, 4]
    assert _calls(tmp_path) == [0, 1, 2]


def test_a_finished_task_is_not_run_again(tmp_path: Path) -> None:
    _run(tmp_path, _tasks(tmp_path, range(3)), INLINE)
    assert _run(tmp_path, _tasks(tmp_path, range(5)), INLINE) == [0, 1, 4, 9, 16]
    assert _calls(tmp_path) == [0, 1, 2, 3, 4]


def test_a_task_whose_output_is_gone_is_run_again(tmp_path: Path) -> None:
    _run(tmp_path, _tasks(tmp_path, range(3)), INLINE)
    (tmp_path / "1.txt").unlink()
    _run(tmp_path, _tasks(tmp_path, range(3)), INLINE)
    assert _calls(tmp_path) == [0, 1, 1, 2]


def test_a_damaged_marker_is_no_marker(tmp_path: Path) -> None:
    _run(tmp_path, _tasks(tmp_path, range(1)), INLINE)
    next((tmp_path / "done").iterdir()).write_text("{half")
    assert _run(tmp_path, _tasks(tmp_path, range(1)), INLINE) == [0]
    assert _calls(tmp_path) == [0, 0]


def test_equal_tasks_are_run_once(tmp_path: Path) -> None:
    assert _run(tmp_path, _tasks(tmp_path, range(2)) * 2, INLINE) == [0, 1, 0, 1]
    assert _calls(tmp_path) == [0, 1]


def test_a_users_error_crosses_the_process_border_and_finished_tasks_stay(tmp_path: Path) -> None:
    tasks = [*_tasks(tmp_path, range(4)), *_tasks(tmp_path, range(9, 10), behave="raise")]
    with pytest.raises(InputError, match="task 9 cannot"):
        _run(tmp_path, tasks, TWO)
    before = len(_calls(tmp_path))
    _run(tmp_path, _tasks(tmp_path, range(4)), TWO)
    assert len(_calls(tmp_path)) <= before + 4
    assert set(_calls(tmp_path)) == {0, 1, 2, 3}


def test_a_killed_worker_is_a_clear_error(tmp_path: Path) -> None:
    tasks = [*_tasks(tmp_path, range(2)), *_tasks(tmp_path, range(7, 8), behave="die")]
    with pytest.raises(MachineError, match="killed from outside") as caught:
        _run(tmp_path, tasks, TWO)
    assert "execution.workers" in str(caught.value)


def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    """They waited for its next task for ever, with all the memory that they had."""
    code = (
        "import sys; from pathlib import Path; from tests.execution.test_tasks import TWO, _run, _tasks\n"
        "if __name__ == '__main__':\n"
        "    folder = Path(sys.argv[1])\n"
        "    _run(folder, _tasks(folder, range(40), behave='slowly'), TWO)\n"
    )
    script = tmp_path / "parent.py"
    script.write_text(code, encoding="utf-8")
    parent = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)], env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    )
    try:
        _until(lambda: (tmp_path / "calls").is_file() and len(_calls(tmp_path)) >= 2)
        family = psutil.Process(parent.pid).children(recursive=True)
        assert len(family) >= 3
    finally:
        parent.kill()
        parent.wait()
    _until(lambda: not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in family))


def test_a_run_that_is_told_to_stop_does_not_wait_for_its_tasks(tmp_path: Path) -> None:
    """SIGTERM waited for the tasks under way, minutes of embedding: whoever sent it killed the run meanwhile."""
    script = tmp_path / "parent.py"
    script.write_text(
        "import signal, sys; from pathlib import Path; from tests.execution.test_tasks import TWO, _run, _tasks\n"
        "if __name__ == '__main__':\n"
        "    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        "    folder = Path(sys.argv[1])\n"
        "    _run(folder, _tasks(folder, range(4), behave='long'), TWO)\n",
        encoding="utf-8",
    )
    parent = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)], env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    )
    try:
        _until(lambda: len(list(tmp_path.glob("begun-*"))) == 2)
        family = psutil.Process(parent.pid).children(recursive=True)
        begun = time.monotonic()
        parent.terminate()
        assert parent.wait(timeout=40) == 143
        assert time.monotonic() - begun < 40  # each task takes a minute
    finally:
        parent.kill()
    _until(lambda: not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in family))


def _until(holds: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.1)


def test_workers_use_one_thread_each(tmp_path: Path) -> None:
    found = run_tasks(square, _tasks(tmp_path, range(4)), Squared, done=tmp_path / "done", config=TWO, name="squares")
    assert {one.threads for one in found} == {"1"}


def test_workers_find_imported_what_they_look_at_images_with(tmp_path: Path) -> None:
    results = run_tasks(square, _tasks(tmp_path, range(4)), Squared, done=tmp_path / "done", config=TWO, name="squares")
    assert all(one.imported for one in results)
