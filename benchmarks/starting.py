"""What a command costs before it does anything: CPU-seconds and wall seconds of starting, the median of some runs.

python benchmarks/starting.py                        in the project's folder
python benchmarks/starting.py --no-bytecode          as where PYTHONDONTWRITEBYTECODE is set and nothing is compiled
python benchmarks/starting.py --env NAME             `plan` and a reporting run in an environment whose stages have run
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measuring import Table, command_line, finish

# It stops at what it lacks, which is what is measured; all the others have to do what they are asked for.
TO_THE_FIRST_NODE = "kedro run, to the first node"


def measure(command: list[str], runs: int, environment: dict[str, str], *, fails: bool) -> dict[str, float]:
    """Median CPU-seconds (user + system, children included) and wall seconds; the first run is not counted."""
    cpu, wall = [], []
    for number in range(runs + 1):
        before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        program = Path(sys.executable).with_name(command[0])
        done = subprocess.run([program, *command[1:]], env=environment, capture_output=True, text=True, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode and not fails:
            said = (done.stderr or done.stdout).strip()[-1000:]
            raise SystemExit(f"`{' '.join(command)}` failed, so its time says nothing:\n{said}")
        if number:
            cpu.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
            wall.append(time.perf_counter() - begun)
    return {"cpu_s": round(statistics.median(cpu), 2), "wall_s": round(statistics.median(wall), 2)}


def main() -> None:
    """Print a row a command; the last line is JSON."""
    parser = command_line(__doc__, "two of the commands, once")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--env", default=None)
    parser.add_argument("--no-bytecode", action="store_true")
    options = parser.parse_args()
    within = ["--env", options.env] if options.env else []
    commands = {
        "kedro registry list": ["kedro", "registry", "list"],
        TO_THE_FIRST_NODE: ["kedro", "run", "--env", "paper/vitl14", "--pipelines", "pretraining"],
        "dvc status": ["dvc", "status"],
        "dinomill dvc check": ["dinomill", "dvc", "check"],
        "dinomill plan": ["dinomill", "plan", *within],
    }
    if options.env:
        commands["kedro run --pipelines reporting"] = ["kedro", "run", *within, "--pipelines", "reporting"]
    if options.smoke:
        options.runs = 1
        commands = {name: commands[name] for name in ("kedro registry list", "dinomill plan")}
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
        environment["PYTHONPYCACHEPREFIX"] = folder  # empty: neither uses what lies beside the modules
        environment["PYTHONDONTWRITEBYTECODE"] = "1" if options.no_bytecode else ""
        table = Table("CPU-s", "seconds", name=32)
        results = {}
        for name, command in commands.items():
            results[name] = measure(command, options.runs, environment, fails=name == TO_THE_FIRST_NODE)
            table.row(name, *(f"{figure:.2f}" for figure in results[name].values()))
    finish(results, smoke=options.smoke)


if __name__ == "__main__":
    main()
