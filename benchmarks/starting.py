"""What a command costs before it does anything: CPU-seconds and wall seconds of starting, the median of some runs.

python benchmarks/starting.py                        in the project's folder
python benchmarks/starting.py --no-bytecode          as where PYTHONDONTWRITEBYTECODE is set and nothing is compiled
python benchmarks/starting.py --env NAME             `plan` and a reporting run in an environment whose stages have run
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def measure(command: list[str], runs: int, environment: dict[str, str]) -> dict[str, float]:
    """Median CPU-seconds (user + system, children included) and wall seconds; the first run is not counted."""
    cpu, wall = [], []
    for number in range(runs + 1):
        before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        program = Path(sys.executable).with_name(command[0])
        subprocess.run([program, *command[1:]], env=environment, capture_output=True, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if number:
            cpu.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
            wall.append(time.perf_counter() - begun)
    return {"cpu_s": round(statistics.median(cpu), 2), "wall_s": round(statistics.median(wall), 2)}


def main() -> None:
    """Print a row a command; the last line is JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--env", default=None)
    parser.add_argument("--no-bytecode", action="store_true")
    options = parser.parse_args()
    within = ["--env", options.env] if options.env else []
    commands = {
        "kedro registry list": ["kedro", "registry", "list"],
        "kedro run, to the first node": ["kedro", "run", "--env", "paper/vitl14", "--pipelines", "pretraining"],
        "dvc status": ["dvc", "status"],
        "dinomill dvc check": ["dinomill", "dvc", "check"],
        "dinomill plan": ["dinomill", "plan", *within],
    }
    if options.env:
        commands["kedro run --pipelines reporting"] = ["kedro", "run", *within, "--pipelines", "reporting"]
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
        environment["PYTHONPYCACHEPREFIX"] = folder  # empty: neither uses what lies beside the modules
        environment["PYTHONDONTWRITEBYTECODE"] = "1" if options.no_bytecode else ""
        results = {name: measure(command, options.runs, environment) for name, command in commands.items()}
    for name, figures in results.items():
        print(f"{name:32} {figures['cpu_s']:6.2f} CPU-s {figures['wall_s']:6.2f} s")
    print(json.dumps(results))


if __name__ == "__main__":
    main()
