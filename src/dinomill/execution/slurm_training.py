"""A training as a SLURM job: the scripts, the submission, and the wait for its end.

<work>/slurm/0001/            one submission; see `node_script.Submission` for job.json, node.sh and failures/
<work>/slurm/0001/train.sbatch
<work>/slurm/0001/job_id      of the job, once it is submitted
<work>/slurm/0001/output-<job>.log
<work>/slurm/0001/cancelled   the stage was told to stop, and with it the job: it is not put back in the queue
<work>/slurm/0001/ended       the exit code, written last

The job does not need the process that waits for it. When that is killed, the job goes on, and the next start of the
stage waits for the same job instead of submitting another.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import FrameType

from dinomill.errors import EXIT_INTERRUPTED, DinomillError, MachineError
from dinomill.execution.given import without_secrets
from dinomill.execution.launcher_config import LauncherConfig
from dinomill.execution.node_script import CHECKPOINT_SECONDS, Submission, meeting, new_submission, node_script
from dinomill.execution.on_node import EXIT_USER_ERROR
from dinomill.execution.signals import handled
from dinomill.storage.atomic import write_text

# Looks at the queue that say that a job is not there, until it is believed: SLURM forgets jobs some minutes after their
# end, and a file that another machine wrote may be seen late.
_MISSING = 3


def write_scripts(
    module: str, job: Path, *, work: Path, config: LauncherConfig, environment: Mapping[str, str]
) -> Submission:
    """Copy code and job, and write what SLURM and its nodes run."""
    submission = new_submission(job, work=work, kind="slurm")
    # The job's number is known to SLURM alone; torchrun's name for the meeting is one for all requeued tries.
    name = f"{work.name}-{submission.folder.name}"
    node = node_script(
        module,
        submission,
        config=config,
        rendezvous=meeting(config, name),
        cores=config.slurm.cpus_per_task,
        environment=environment,
        setup=config.slurm.setup,
    )
    write_text(submission.node, node)
    write_text(submission.folder / "train.sbatch", batch_script(submission, config))
    return submission


def batch_script(submission: Submission, config: LauncherConfig) -> str:
    """The batch script: a node script on every node, a warning before the time limit, requeueing until it is done."""
    slurm, folder = config.slurm, submission.folder
    options = [
        f"--job-name=dinomill-{folder.parent.parent.name}",
        f"--nodes={config.nodes}" if config.min_nodes is None else f"--nodes={config.min_nodes}-{config.nodes}",
        "--ntasks-per-node=1",
        f"--cpus-per-task={slurm.cpus_per_task}",
        f"--mem={slurm.memory}",
        f"--time={slurm.time}",
        f"--output={_option(folder / 'output-%j.log')}",
        # The workers save a checkpoint when they are warned, then the script below puts the job back in the queue.
        f"--signal=TERM@{CHECKPOINT_SECONDS + 60}",
        "--requeue",
        "--open-mode=append",
    ]
    options += [f"--gpus-per-node={slurm.gpus_per_node}"] if slurm.gpus_per_node else []
    options += [f"--partition={slurm.partition}"] if slurm.partition else []
    options += [f"--account={slurm.account}"] if slurm.account else []
    options += slurm.options
    # With fewer nodes allowed, the loss of one is torchrun's to answer.
    bad_exit = "--kill-on-bad-exit=1" if config.min_nodes is None else "--kill-on-bad-exit=0 --no-kill"
    restarts = config.restarts
    return f"""#!/bin/bash
{"".join(f"#SBATCH {option}{chr(10)}" for option in options)}set -u
here={shlex.quote(str(folder))}
end() {{ echo "$1" > "$here/ended.tmp" && mv "$here/ended.tmp" "$here/ended"; exit "$1"; }}
[ -e "$here/cancelled" ] && end {EXIT_INTERRUPTED}
rm -rf "$here/failures" "$here/ended"
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun --ntasks-per-node=1 --export=ALL {bad_exit} bash "$here/node.sh" "$head:{slurm.port}"
code=$?
# A line for each worker that has told why it ended.
told() {{ grep -hs '"kind": ' "$here"/failures/rank_*.json; }}
if [ -e "$here/cancelled" ]; then
  end {EXIT_INTERRUPTED}  # by whom waits for it
elif told | grep -qv '"kind": "Interrupted"'; then
  end {EXIT_USER_ERROR}  # a mistake of the user's: it would be made again
elif told > /dev/null; then
  scontrol requeue "$SLURM_JOB_ID" && exit 0  # the time is up, the state is saved
elif [ $code -ne 0 ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {restarts} ]; then
  scontrol requeue "$SLURM_JOB_ID" && exit 0  # a node, or the meeting place, is gone
fi
end $code
"""


def run(
    module: str, job: Path, *, work: Path, config: LauncherConfig, environment: Mapping[str, str]
) -> tuple[int, Path]:
    """Submit a training, or find the job of before, and wait for its end.

    Returns:
        The exit code, and the folder in which workers tell of failures.

    Raises:
        MachineError: When the commands of SLURM are missing or refuse.
        DinomillError: When the job left the queue without a word.
    """
    submission = _still_there(work)
    if submission is None:
        submission = write_scripts(module, job, work=work, config=config, environment=environment)
        _submit(submission)
        print(f"SLURM job {_job_id(submission)}; it writes to {submission.folder}", file=sys.stderr, flush=True)
    else:
        print(
            f"SLURM job {_job_id(submission)} of before is still there: waiting for it, with the settings of then "
            f"(`scancel {_job_id(submission)}` ends it)",
            file=sys.stderr,
            flush=True,
        )
    return _wait(submission, config.slurm.look_every), submission.failures


def _submit(submission: Submission) -> None:
    script = submission.folder / "train.sbatch"
    if shutil.which("sbatch") is None:
        raise MachineError(
            "The SLURM launcher needs the command `sbatch`, which is not there.",
            found=f"the batch script was written to {script}",
            expected="a login node of the cluster",
            action=f"run `sbatch {shlex.quote(str(script))}` where SLURM is, and this command again when it has ended; "
            "or set launcher.kind to inline or torchrun",
        )
    outcome = _slurm("sbatch", "--parsable", str(script))
    number = outcome.stdout.strip().split(";")[0]  # with the cluster's name behind it, where there are several
    if outcome.returncode != 0 or not number:
        raise MachineError(
            "SLURM did not take the job.",
            found=(outcome.stderr or outcome.stdout).strip()[-500:],
            action=f"correct launcher.slurm; the script is {script}",
        )
    write_text(submission.folder / "job_id", number + "\n")


def _still_there(work: Path) -> Submission | None:
    """The submission of an earlier start of this work whose job has not ended, if there is one."""
    folders = sorted((work / "slurm").glob("[0-9]*"), reverse=True)
    for folder in folders:
        found = Submission(folder, folder / "job.json", work / "code")
        submitted = (folder / "job_id").is_file() and not (folder / "ended").exists()
        if submitted and not (folder / "cancelled").exists() and _state(found) not in ("", None):
            return found
    return None


def _wait(submission: Submission, seconds: float) -> int:
    """Until the job has ended; told to stop, it stops the job, which saves its state."""
    told = threading.Event()
    signals: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        signals.append(number)
        told.set()

    shown, missing, cancelled = None, 0, 0
    with handled(note):
        while not (submission.folder / "ended").exists():
            state = _state(submission)
            missing = missing + 1 if state == "" else 0
            if missing >= _MISSING:
                return _gone(submission, stopped=bool(signals))
            if state and state != shown:
                print(f"SLURM job {_job_id(submission)}: {state.lower()}", file=sys.stderr, flush=True)
                shown = state
            if len(signals) > cancelled:
                cancelled = len(signals)
                _cancel(submission, running=state == "RUNNING", at_once=cancelled > 1)
            told.wait(seconds)
            told.clear()
    return int((submission.folder / "ended").read_text(encoding="utf-8"))


def _gone(submission: Submission, *, stopped: bool) -> int:
    if stopped:
        return EXIT_INTERRUPTED
    raise DinomillError(
        f"The SLURM job {_job_id(submission)} left the queue without a word: it was cancelled, or its node died.",
        found=f"its output is in {submission.folder}",
        action="run the same command again: it continues from the last checkpoint",
    )


def _cancel(submission: Submission, *, running: bool, at_once: bool) -> None:
    write_text(submission.folder / "cancelled", "")
    gently = ["--signal=TERM"] if running and not at_once else []
    _slurm("scancel", *gently, _job_id(submission))


def _state(submission: Submission) -> str | None:
    """The job's state; empty when SLURM has no such job; None when it does not answer."""
    outcome = _slurm("squeue", "--noheader", f"--jobs={_job_id(submission)}", "--format=%T")
    if outcome.returncode != 0:
        return "" if "Invalid job id" in outcome.stderr else None
    return outcome.stdout.strip().splitlines()[0] if outcome.stdout.strip() else ""


def _slurm(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a command of SLURM; ``sbatch`` hands its environment on to the job, whose `module load` needs most of it."""
    try:
        return subprocess.run(command, env=without_secrets(os.environ), check=False, capture_output=True, text=True)
    except FileNotFoundError:
        return subprocess.CompletedProcess(command, 127, "", f"{command[0]} is not there")


def _job_id(submission: Submission) -> str:
    return (submission.folder / "job_id").read_text(encoding="utf-8").strip()


def _option(path: Path) -> str:
    """A path in an #SBATCH line, which takes quotes, and for which `%` begins a pattern."""
    return shlex.quote(str(path.parent).replace("%", "%%") + f"/{path.name}")
