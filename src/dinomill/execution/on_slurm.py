"""Shard tasks as a SLURM job array: the tasks are written down, one array element runs one, markers say which are done.

<folder>/tasks.jsonl    a line a task: its marker and its configuration
<folder>/job.json       the function, and the types of task and result
<folder>/array.sh       the script that sbatch is given
<folder>/logs/          what each element printed

An element runs ``python -m dinomill.execution.on_slurm FOLDER INDEX``, which can be run by hand as well.
"""

from __future__ import annotations

import importlib
import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dinomill.config import Config
from dinomill.errors import MachineError
from dinomill.storage.atomic import write_text


def run_on_slurm(
    function: Callable[[Any], Any], result: type[Config], waiting: dict[Path, Any], folder: Path, workers: int
) -> dict[Path, Any]:
    """Submit the tasks, wait for the array, and read the results from the markers.

    Args:
        function: A module-level function.
        result: What it returns.
        waiting: Tasks by marker. Sources, project and work folder must be visible from every node.
        folder: Where job, script and logs go.
        workers: Elements that run at once.

    Raises:
        MachineError: When there is no ``sbatch`` here, or elements failed.
    """
    script = write_job(function, result, waiting, folder, workers)
    if shutil.which("sbatch") is None:
        raise MachineError(
            "There is no sbatch on this machine.",
            expected="a login node of a SLURM cluster",
            action=f"submit {script} from there, then run this command again: finished tasks are kept; "
            "or set execution.executor to processes",
        )
    outcome = subprocess.run(["sbatch", "--wait", str(script)], check=False, capture_output=True, text=True)
    missing = [marker for marker in waiting if not marker.exists()]
    if missing:
        raise MachineError(
            f"{len(missing):,} of {len(waiting):,} elements of the SLURM array did not finish.",
            found=(outcome.stderr or outcome.stdout).strip().splitlines()[-1:][0]
            if outcome.stderr or outcome.stdout
            else "",
            action=f"see {folder / 'logs'}, then run the same command again: finished tasks are kept",
        )
    return {marker: result.model_validate_json(marker.read_bytes()) for marker in waiting}


def write_job(
    function: Callable[[Any], Any], result: type[Config], waiting: dict[Path, Any], folder: Path, workers: int
) -> Path:
    """Write job, tasks and script; returns the script's path."""
    for marker in waiting:  # one that is here vouches for outputs that are gone
        marker.unlink(missing_ok=True)
    task_type = type(next(iter(waiting.values())))
    names = {"function": _name(function), "task": _name(task_type), "result": _name(result)}
    write_text(folder / "job.json", json.dumps(names, indent=2) + "\n")
    lines = [
        json.dumps({"marker": str(marker), "task": task.model_dump(mode="json")}) for marker, task in waiting.items()
    ]
    write_text(folder / "tasks.jsonl", "\n".join(lines) + "\n")
    (folder / "logs").mkdir(exist_ok=True)
    here = folder.absolute()
    command = shlex.join([sys.executable, "-m", "dinomill.execution.on_slurm", str(here)])
    script = f"""#!/bin/bash
#SBATCH --job-name=dinomill
#SBATCH --array=0-{len(waiting) - 1}%{workers}
#SBATCH --cpus-per-task=1
#SBATCH --output={shlex.quote(str(here / "logs"))}/%a.log
#SBATCH --requeue
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1
cd {shlex.quote(str(Path.cwd()))}
exec {command} "$SLURM_ARRAY_TASK_ID"
"""
    write_text(folder / "array.sh", script)
    return folder / "array.sh"


def run_element(folder: Path, index: int) -> Path:
    """Run one task of a written job, unless it is done; returns its marker."""
    names = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    with (folder / "tasks.jsonl").open(encoding="utf-8") as lines:
        line = json.loads(next(line for number, line in enumerate(lines) if number == index))
    marker = Path(line["marker"])
    if not marker.exists():
        task = _find(names["task"]).model_validate(line["task"])
        write_text(marker, _find(names["function"])(task).model_dump_json())
    return marker


def _name(thing: Any) -> str:
    return f"{thing.__module__}:{thing.__qualname__}"


def _find(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


if __name__ == "__main__":
    run_element(Path(sys.argv[1]), int(sys.argv[2]))
