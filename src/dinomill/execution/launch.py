"""Starting training processes: one child, several by torchrun, or a SLURM job; signals go through, failures come back.

A worker tells how it ended by its exit code and by one file a rank in the job's work folder:

    <work>/failures/rank_0.json      the DinomillError that stopped it, or the fact that it was interrupted
    <work>/slurm/train.sbatch        the script, for the SLURM launcher
    <work>/slurm/output-<job>.log    its output
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from dinomill.config import Config
from dinomill.errors import EXIT_INTERRUPTED, DinomillError, Interrupted, MachineError, from_row, to_row
from dinomill.storage.atomic import write_text

EXIT_USER_ERROR = 2

# Workers look after this process: when it is gone without a word (SIGKILL), they save and stop too.
LAUNCHER_PID = "DINOMILL_LAUNCHER_PID"

_CHECKPOINT_SECONDS = 120

# Else torchrun's agent keeps one store for all restarts, in which the workers that are started again find the addresses
# of dead ones, and now and then try to reach those ("Gloo connectFullMesh failed … Connection refused").
FRESH_STORE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


class SlurmConfig(Config):
    """What ``sbatch`` is told."""

    partition: str | None = Field(default=None, description="SLURM partition; None for the cluster's default")
    account: str | None = Field(default=None, description="account that is charged")
    time: str = Field(default="24:00:00", description="time limit, in SLURM's form [days-]hours:minutes:seconds")
    gpus_per_node: int = Field(default=8, ge=0, description="GPUs asked for on each node")
    cpus_per_task: int = Field(default=64, ge=1, description="CPU cores on each node")
    memory: str = Field(default="0", description="memory a node; 0 is all of it")
    options: tuple[str, ...] = Field(default=(), description="further #SBATCH options, such as --constraint=h100")
    setup: tuple[str, ...] = Field(default=(), description="shell lines run first, such as `module load cuda`")
    port: int = Field(default=29500, ge=1024, le=65535, description="port where the nodes meet, on the first of them")


class LauncherConfig(Config):
    """How many processes train, and what starts them."""

    kind: Literal["inline", "torchrun", "slurm"] = Field(
        default="inline",
        description="inline: one child process; torchrun: `processes` on this machine; slurm: `nodes` × `processes`",
    )
    processes: int = Field(default=1, ge=1, description="processes a node: one for each GPU")
    nodes: int = Field(default=1, ge=1, description="nodes; only SLURM starts more than one")
    min_nodes: int | None = Field(
        default=None,
        ge=1,
        description="go on with so many when nodes are lost, and with more when they are back (torchrun's min:max); "
        "batch_size must be a multiple of every number of processes in between; null: all or none",
    )
    threads: int = Field(default=0, ge=0, description="CPU threads a process; 0 shares this machine's cores evenly")
    restarts: int = Field(
        default=3,
        ge=0,
        description="how often torchrun starts all workers again when one dies: they go on from the last checkpoint",
    )
    slurm: SlurmConfig = SlurmConfig()

    @model_validator(mode="after")
    def _fewer_than_all(self) -> Self:
        if self.min_nodes is not None and self.min_nodes > self.nodes:
            raise ValueError(f"min_nodes is {self.min_nodes}, nodes is {self.nodes}: it cannot be more")
        return self

    @property
    def world_sizes(self) -> list[int]:
        """The numbers of processes that may train together, where nodes may be lost."""
        if self.kind != "slurm" or self.min_nodes is None:
            return [self.world_size]
        return [nodes * self.processes for nodes in range(self.min_nodes, self.nodes + 1)]

    @property
    def world_size(self) -> int:
        """The number of processes that train together."""
        return 1 if self.kind == "inline" else self.nodes * self.processes


def launch(module: str, job: Path, *, work: Path, config: LauncherConfig, environment: Mapping[str, str]) -> None:
    """Run ``python -m <module> <job>`` in the configured number of processes and wait for it.

    SIGTERM and SIGINT are passed on; the workers save their state and stop. A second one ends them at once.

    Args:
        module: A module with a command line that takes the job file, such as ``dinomill.training.worker``.
        job: The resolved configuration, without secrets.
        work: The job's work folder; failures are told there.
        config: How to start the processes.
        environment: Variables added to those of this process.

    Raises:
        Interrupted: When it was told to stop.
        DinomillError: What a worker raised, or that it was killed.
        MachineError: When the SLURM commands are missing.
    """
    failures = work / "failures"
    shutil.rmtree(failures, ignore_errors=True)
    variables = {**os.environ, **FRESH_STORE, **environment, LAUNCHER_PID: str(os.getpid())}
    if config.kind == "slurm":
        variables.pop(LAUNCHER_PID)  # the workers run elsewhere
        command = _submit(module, job, work=work, config=config)
    else:
        threads = config.threads or max((os.cpu_count() or 1) // config.world_size, 1)
        variables.setdefault("OMP_NUM_THREADS", str(threads))
        command = _command(module, job, config)
    # A session of its own: the terminal's Ctrl-C then reaches the workers once, through us, not twice.
    process = subprocess.Popen(command, env=variables, start_new_session=True)
    with _forwarded_signals(process) as received:
        code = process.wait()
    # Under torchrun a worker that was told to stop ends with 0: its message says that it did not finish.
    if code != 0 or any(failures.glob("rank_*.json")):
        raise _explain(code, failures, stopped=bool(received))


def forget_failure(work: Path, rank: int) -> None:
    """Called by a worker that begins: what an earlier one of its rank left does not hold any more."""
    (work / "failures" / f"rank_{rank}.json").unlink(missing_ok=True)


def record_failure(work: Path, rank: int, error: DinomillError) -> int:
    """Called by a worker: leave the error for the launching process and return the exit code to end with."""
    write_text(work / "failures" / f"rank_{rank}.json", json.dumps(to_row(error)))
    return EXIT_INTERRUPTED if isinstance(error, Interrupted) else EXIT_USER_ERROR


def _command(module: str, job: Path, config: LauncherConfig) -> list[str]:
    if config.kind == "inline":
        return [sys.executable, "-m", module, str(job)]
    return [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={config.processes}"),
        *(f"--max-restarts={config.restarts}", f"--shutdown-timeout={_CHECKPOINT_SECONDS}"),
        *("-m", module, str(job)),
    ]


def slurm_script(module: str, job: Path, *, work: Path, config: LauncherConfig) -> str:
    """The batch script: torchrun on every node, a warning before the time limit, and requeueing until it is done."""
    slurm = config.slurm
    options = [
        f"--job-name=dinomill-{work.parent.name}",
        f"--nodes={config.nodes}",
        "--ntasks-per-node=1",
        f"--cpus-per-task={slurm.cpus_per_task}",
        f"--mem={slurm.memory}",
        f"--time={slurm.time}",
        f"--output={shlex.quote(str(work / 'slurm' / 'output-%j.log'))}",
        # The workers save a checkpoint when they are warned, then the script below puts the job back in the queue.
        f"--signal=TERM@{_CHECKPOINT_SECONDS + 60}",
        "--requeue",
        "--open-mode=append",
    ]
    options += [f"--gpus-per-node={slurm.gpus_per_node}"] if slurm.gpus_per_node else []
    options += [f"--partition={slurm.partition}"] if slurm.partition else []
    options += [f"--account={slurm.account}"] if slurm.account else []
    options += slurm.options
    nodes = f"{config.nodes}" if config.min_nodes is None else f"{config.min_nodes}:{config.nodes}"
    torchrun = (
        f"{shlex.quote(sys.executable)} -m torch.distributed.run --nnodes={nodes} --nproc-per-node={config.processes} "
        f"--max-restarts={config.restarts} --shutdown-timeout={_CHECKPOINT_SECONDS} "
        f'--rdzv-backend=c10d --rdzv-id="$SLURM_JOB_ID" --rdzv-endpoint="$head:{slurm.port}" '
        f"-m {module} {shlex.quote(str(job))}"
    )
    # With fewer nodes allowed, the loss of one is torchrun's to answer.
    srun = "srun --kill-on-bad-exit=1" if config.min_nodes is None else "srun --kill-on-bad-exit=0 --no-kill"
    interrupted = shlex.quote(str(work / "failures"))
    return "\n".join(
        [
            "#!/bin/bash",
            *(f"#SBATCH {option}" for option in options),
            "set -u",
            f"cd {shlex.quote(str(Path.cwd()))}",
            *slurm.setup,
            f"export OMP_NUM_THREADS={config.threads or max(slurm.cpus_per_task // config.processes, 1)}",
            *(f"export {name}={value}" for name, value in FRESH_STORE.items()),
            'head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
            f"rm -rf {interrupted}",
            f"{srun} {torchrun}",
            "code=$?",
            f'if grep -qs \'"kind": "Interrupted"\' {interrupted}/rank_0.json; then',
            '  scontrol requeue "$SLURM_JOB_ID"',
            "fi",
            # A user's error ends the workers quietly, so that torchrun does not start them again.
            f"[ $code -eq 0 ] && ls {interrupted}/rank_*.json > /dev/null 2>&1 && code={EXIT_USER_ERROR}",
            "exit $code",
            "",
        ]
    )


def _submit(module: str, job: Path, *, work: Path, config: LauncherConfig) -> list[str]:
    script = work / "slurm" / "train.sbatch"
    write_text(script, slurm_script(module, job, work=work, config=config))
    if shutil.which("sbatch") is None:
        raise MachineError(
            "The SLURM launcher needs the command `sbatch`, which is not there.",
            found=f"the batch script was written to {script}",
            expected="a login node of the cluster",
            action=f"run `sbatch {script}` where SLURM is, or set launcher.kind to inline or torchrun",
        )
    return ["sbatch", "--wait", str(script)]


@contextmanager
def _forwarded_signals(process: subprocess.Popen[bytes]) -> Iterator[Sequence[int]]:
    """Pass SIGTERM and SIGINT on to the child; from the second on, kill its whole session."""
    received: list[int] = []

    def forward(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        with _gone_is_fine():
            if len(received) > 1:
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.send_signal(signal.SIGTERM)

    with _handlers(forward):
        try:
            yield received
        except BaseException:
            # Not the main thread, or an error of ours: the child must not live on unseen.
            with _gone_is_fine():
                process.terminate()
            process.wait()
            raise


@contextmanager
def _handlers(handler: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@contextmanager
def _gone_is_fine() -> Iterator[None]:
    with suppress(ProcessLookupError):
        yield


def _explain(code: int, failures: Path, *, stopped: bool) -> DinomillError:
    """What went wrong, in the words of the first worker that knows it."""
    for path in sorted(failures.glob("rank_*.json")):
        return from_row(json.loads(path.read_text(encoding="utf-8")))
    if stopped or code == EXIT_INTERRUPTED:
        return Interrupted(
            "The training was stopped before it could save its state.",
            action="run the same command again: it continues from the last checkpoint",
        )
    if code == -signal.SIGKILL:
        return DinomillError(
            "The training process was killed by the system (SIGKILL), most likely because memory ran out.",
            action="lower the batch size or the crop sizes, then run the same command again: it continues from the "
            "last checkpoint",
        )
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return DinomillError(
        f"The training process failed ({how}); its own message stands above.",
        action="when the cause is removed, run the same command again: it continues from the last checkpoint",
    )
