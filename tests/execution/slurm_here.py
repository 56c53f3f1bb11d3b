"""The commands of SLURM that dinomill calls, in small, for one machine: nodes are processes that meet on loopback.

A stand-in, since SLURM is missing where the tests run; what it starts (bash, the scripts, torchrun, workers) is real.

    python slurm_here.py COMMAND ARGUMENTS…      with SLURM_HERE naming the folder of the queue
    install(folder)                              writes sbatch, squeue, scancel, scontrol, srun; returns their folder
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

COMMANDS = ("sbatch", "squeue", "scancel", "scontrol", "srun")


def install(folder: Path) -> Path:
    commands, queue = folder / "bin", folder / "queue"
    commands.mkdir(parents=True)
    queue.mkdir()
    for name in COMMANDS:
        path = commands / name
        run = shlex.join([sys.executable, __file__, name])
        path.write_text(f'#!/bin/bash\nSLURM_HERE={shlex.quote(str(queue))} exec {run} "$@"\n')
        path.chmod(0o755)
    return commands


def sbatch(queue: Path, arguments: list[str]) -> int:
    script = Path(arguments[-1])
    number = str(len(list(queue.glob("*.state"))) + 7)
    (queue / f"{number}.state").write_text("PENDING")
    # sbatch hands its environment on; the controller, not the shell, is the job's parent.
    subprocess.Popen(
        [sys.executable, __file__, "job", number, str(script)],
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    print(number)
    return 0


def job(queue: Path, arguments: list[str]) -> int:
    number, script = arguments
    text = Path(script).read_text()
    nodes = re.findall(r"#SBATCH --nodes=(?:\d+-)?(\d+)", text)[0]
    output = shlex.split(re.findall(r"#SBATCH --output=(.*)", text)[0])[0].replace("%j", number).replace("%%", "%")
    tries = 0
    while True:
        (queue / f"{number}.state").write_text("RUNNING")
        told = {"SLURM_JOB_ID": number, "SLURM_JOB_NODELIST": "here", "SLURM_NNODES": nodes}
        told["SLURM_RESTART_COUNT"] = str(tries)
        with Path(output).open("ab") as log:
            subprocess.run(["bash", script], env={**os.environ, **told}, stdout=log, stderr=log, check=False)
        if not (queue / f"{number}.requeue").exists():
            break
        (queue / f"{number}.requeue").unlink()
        (queue / f"{number}.requeued").write_text(str(tries))
        tries += 1
    (queue / f"{number}.state").write_text("")
    return 0


def srun(queue: Path, arguments: list[str]) -> int:
    command = list(arguments)
    options = []
    while command[0].startswith("--"):
        options.append(command.pop(0))
    nodes = [subprocess.Popen(command) for _ in range(int(os.environ["SLURM_NNODES"]))]
    steps = queue / f"{os.environ['SLURM_JOB_ID']}.steps"
    steps.write_text(" ".join(str(node.pid) for node in nodes))
    worst = 0
    while nodes:
        for node in list(nodes):
            if node.poll() is None:
                continue
            nodes.remove(node)
            code = node.returncode if node.returncode >= 0 else 128 - node.returncode
            worst = max(worst, code)
            if code and "--kill-on-bad-exit=1" in options:
                for other in nodes:
                    other.terminate()
        time.sleep(0.05)
    return worst


def squeue(queue: Path, arguments: list[str]) -> int:
    number = next(word.removeprefix("--jobs=") for word in arguments if word.startswith("--jobs="))
    path = queue / f"{number}.state"
    if not path.exists():
        print("slurm_load_jobs error: Invalid job id specified", file=sys.stderr)
        return 1
    print(path.read_text())
    return 0


def scancel(queue: Path, arguments: list[str]) -> int:
    number = arguments[-1]
    kind = signal.SIGTERM if "--signal=TERM" in arguments else signal.SIGKILL
    for pid in (queue / f"{number}.steps").read_text().split():
        with suppress(ProcessLookupError):
            os.kill(int(pid), kind)
    return 0


def scontrol(queue: Path, arguments: list[str]) -> int:
    if arguments[0] == "requeue":
        (queue / f"{arguments[1]}.requeue").touch()
    else:
        print("localhost")
    return 0


if __name__ == "__main__":
    sys.exit(globals()[sys.argv[1]](Path(os.environ["SLURM_HERE"]), sys.argv[2:]))
