"""Starting training processes: one child, several by torchrun, a SLURM job; signals go through, failures come back.

A worker tells how it ended by its exit code and by one file a rank beside its job file:

    <work>/failures/rank_0.json      the DinomillError that stopped it, or the fact that it was interrupted
    <work>/node.sh                   what other machines run, where they meet without a scheduler
    <work>/slurm/, <work>/kubernetes/   see those modules
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from dinomill.errors import EXIT_INTERRUPTED, DinomillError, Interrupted, from_row, to_row
from dinomill.execution import kubernetes, slurm_training
from dinomill.execution.given import given, refuse_s3_keys, s3_keys_as_file
from dinomill.execution.launcher_config import LauncherConfig
from dinomill.execution.node_script import FRESH_STORE, Submission, meeting, node_script, torchrun_arguments
from dinomill.execution.on_node import EXIT_USER_ERROR
from dinomill.execution.signals import handled
from dinomill.execution.snapshot import keep_code
from dinomill.storage.atomic import write_text

# Workers look after this process: when it is gone without a word (SIGKILL), they save and stop too.
LAUNCHER_PID = "DINOMILL_LAUNCHER_PID"


def launch(
    module: str,
    job: Path,
    *,
    work: Path,
    config: LauncherConfig,
    environment: Mapping[str, str],
    s3: bool = False,
    places: Sequence[Path] = (),
) -> None:
    """Run ``python -m <module> <job>`` in the configured number of processes and wait for it.

    SIGTERM and SIGINT are passed on; the workers save their state and stop. A second one ends them at once.

    Args:
        module: A module with a command line that takes the job file, such as ``dinomill.training.worker``.
        job: The resolved configuration, without secrets.
        work: The job's work folder; failures are told there.
        config: How to start the processes.
        environment: Variables for the workers besides those that `given` lets through; no secrets.
        s3: Whether the workers read or write S3.
        places: Folders besides the work folder that the workers need.

    Raises:
        Interrupted: When it was told to stop.
        DinomillError: What a worker raised, or that it was killed.
        MachineError: When the commands of SLURM are missing, or always for Kubernetes: it runs elsewhere.
    """
    if s3 and config.several_nodes and config.kind != "kubernetes":
        refuse_s3_keys(os.environ, config.kind)
    if config.elsewhere:
        if config.kind == "kubernetes":
            kubernetes.hand_over(module, job, work=work, config=config, environment=environment, places=places)
        code, failures = slurm_training.run(module, job, work=work, config=config, environment=environment)
        stopped = False
    else:
        failures = work / "failures"
        shutil.rmtree(failures, ignore_errors=True)
        with s3_keys_as_file(os.environ if s3 else {}) as keys:
            code, stopped = _run_here(module, job, work=work, config=config, environment={**environment, **keys})
    # Under torchrun a worker that was told to stop ends with 0: its message says that it did not finish.
    if code != 0 or any(failures.glob("rank_*.json")):
        raise _explain(code, failures, stopped=stopped)


def _run_here(
    module: str, job: Path, *, work: Path, config: LauncherConfig, environment: Mapping[str, str]
) -> tuple[int, bool]:
    """Start the processes of this machine and wait for them; the exit code, and whether they were told to stop."""
    variables = {**given(os.environ, config.variables), **FRESH_STORE, **environment, LAUNCHER_PID: str(os.getpid())}
    here = 1 if config.kind == "inline" else config.processes
    threads = config.threads or max((os.cpu_count() or 1) // here, 1)
    variables.setdefault("OMP_NUM_THREADS", str(threads))
    if config.kind != "inline":
        # Workers that are started again run the code of the first start, whatever was edited meanwhile.
        code = keep_code(work)
        variables["PYTHONPATH"] = os.pathsep.join([str(code), *filter(None, [variables.get("PYTHONPATH")])])
        variables["PYTHONSAFEPATH"] = "1"
    command = _command(module, job, work=work, config=config, environment=environment)
    # A session of its own: the terminal's Ctrl-C then reaches the workers once, through us, not twice.
    process = subprocess.Popen(command, env=variables, start_new_session=True)
    with _forwarded_signals(process) as received:
        return process.wait(), bool(received)


def forget_failure(work: Path, rank: int, world: int = 1) -> None:
    """Called by a worker that begins: what an earlier one of its rank left does not hold any more.

    Nor what workers left whose ranks there are not any more: the main one removes it, when there are fewer nodes.
    """
    (work / "failures" / f"rank_{rank}.json").unlink(missing_ok=True)
    if rank == 0:
        for path in (work / "failures").glob("rank_*.json"):
            number = path.stem.removeprefix("rank_")
            if number.isdigit() and int(number) >= world:
                path.unlink(missing_ok=True)


def record_failure(work: Path, rank: int, error: DinomillError) -> int:
    """Called by a worker: leave the error for the launching process and return the exit code to end with."""
    write_text(work / "failures" / f"rank_{rank}.json", json.dumps(to_row(error)))
    return EXIT_INTERRUPTED if isinstance(error, Interrupted) else EXIT_USER_ERROR


def _command(
    module: str, job: Path, *, work: Path, config: LauncherConfig, environment: Mapping[str, str]
) -> list[str]:
    if config.kind == "inline":
        return [sys.executable, "-m", module, str(job)]
    torchrun = [sys.executable, "-m", "torch.distributed.run"]
    if not config.several_nodes:
        return [*torchrun, *torchrun_arguments(module, job, config, ["--standalone"])]
    assert config.rendezvous is not None, "the configuration asks for it"
    name = f"{work.name}-{os.getpid()}"
    meets = meeting(config, name)
    submission = Submission(work, job.absolute(), keep_code(work))
    script = node_script(module, submission, config=config, rendezvous=meets, cores=0, environment=environment)
    write_text(submission.node, script)
    print(
        f"this machine is one of {config.nodes}; on each of the others, which see this folder, run\n"
        f"  bash {shlex.quote(str(submission.node.absolute()))} {config.rendezvous}",
        file=sys.stderr,
        flush=True,
    )
    return [*torchrun, *torchrun_arguments(module, job, config, [*meets, f"--rdzv-endpoint={config.rendezvous}"])]


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

    with handled(forward):
        try:
            yield received
        except BaseException:
            # Not the main thread, or an error of ours: the child must not live on unseen.
            with _gone_is_fine():
                process.terminate()
            process.wait()
            raise


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
