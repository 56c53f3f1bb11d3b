"""The script that makes one node of a training of the machine that it runs on; SLURM, Kubernetes and hands start it."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dinomill.execution.given import given
from dinomill.execution.launcher_config import LauncherConfig
from dinomill.execution.snapshot import keep_code, keep_job, next_folder

CHECKPOINT_SECONDS = 120  # workers that are told to stop have so long to save

# Else torchrun's agent keeps one store for all restarts, in which the workers that are started again find the addresses
# of dead ones, and now and then try to reach those ("Gloo connectFullMesh failed … Connection refused").
FRESH_STORE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}

# Of this machine's environment, what another one that shares its disks needs as well. Modules and paths of commands
# are the node's own (`slurm.setup`); how to compute and talk is the same for all.
_SAME_EVERYWHERE = ("NCCL_", "GLOO_", "TORCH", "PYTORCH_", "UCX_", "FI_", "CUDA_DEVICE_", "AWS_", "LC_", "DINOMILL_")
_SAME_NAMES = frozenset({"PYTHONPATH", "LANG", "DO_NOT_TRACK", "MLFLOW_DISABLE_TELEMETRY", "SSL_CERT_FILE"})


@dataclass(frozen=True)
class Submission:
    """What a training on other machines consists of: copies that later edits do not reach.

    <work>/slurm/0001/job.json       the job as it was when it was submitted
    <work>/slurm/0001/node.sh        what each node runs
    <work>/slurm/0001/failures/      how workers ended
    <work>/code/<hash>/dinomill      the code
    """

    folder: Path
    job: Path
    code: Path

    @property
    def failures(self) -> Path:
        """Where workers tell how they ended."""
        return self.folder / "failures"

    @property
    def node(self) -> Path:
        """The script of one node."""
        return self.folder / "node.sh"


def new_submission(job: Path, *, work: Path, kind: str) -> Submission:
    """Copy code and job to a folder of this submission's own."""
    folder = next_folder(work / kind)
    return Submission(folder, keep_job(job, folder), keep_code(work))


def torchrun_arguments(module: str, job: Path, config: LauncherConfig, rendezvous: list[str]) -> list[str]:
    """What `torch.distributed.run` is told."""
    return [
        *rendezvous,
        f"--nproc-per-node={config.processes}",
        f"--max-restarts={config.restarts}",
        f"--shutdown-timeout={CHECKPOINT_SECONDS}",
        *("-m", module, str(job)),
    ]


def meeting(config: LauncherConfig, name: str) -> list[str]:
    """How nodes find each other, all but where: that is the script's argument."""
    return [
        f"--nnodes={config.fewest_nodes}:{config.nodes}",
        "--rdzv-backend=c10d",
        f"--rdzv-id={name}",
        f"--rdzv-conf=last_call_timeout={config.join_seconds}",
    ]


def node_script(
    module: str,
    submission: Submission,
    *,
    config: LauncherConfig,
    rendezvous: list[str],
    cores: int,
    environment: Mapping[str, str] | None = None,
    python: str = sys.executable,
    setup: tuple[str, ...] = (),
    options: tuple[str, ...] = (),
) -> str:
    """The text of ``node.sh``; its argument is HOST:PORT where the nodes meet, where `rendezvous` does not say it.

    Args:
        module: The workers' command line.
        submission: Code and job.
        config: How many processes.
        rendezvous: Arguments of torchrun about the other nodes.
        cores: Of a node, which its processes share as threads; 0: the node's own.
        environment: Variables for the workers besides; no secrets.
        python: The interpreter on the node.
        setup: Shell lines that are run first.
        options: Of `on_node`.
    """
    told = {**_from_here(os.environ), **(environment or {}), **FRESH_STORE}
    path = [str(submission.code), *filter(None, told.pop("PYTHONPATH", "").split(os.pathsep))]
    also = [part for name in (*config.variables, *(environment or {})) for part in ("--also", name)]
    arguments = torchrun_arguments(module, submission.job, config, rendezvous)
    threads = str(config.threads or max(cores // config.processes, 1)) if config.threads or cores else None
    counted = f"$(( ($(nproc) + {config.processes - 1}) / {config.processes} ))"
    meet = [] if not rendezvous else ['--rdzv-endpoint="${1:?where the nodes meet, HOST:PORT}"']
    command = shlex.join(
        [python, "-m", "dinomill.execution.on_node", *also, *options, str(submission.failures)]
    )  # torchrun's arguments follow
    return "\n".join(
        [
            "#!/bin/bash",
            "# One node of a training: start it on every machine that is to take part, whenever it is free.",
            "set -u",
            f"cd {shlex.quote(str(Path.cwd()))}",
            *setup,
            *(f"export {name}={shlex.quote(value)}" for name, value in sorted(told.items())),
            # The code as it was when this was written, whatever is edited since, and not what lies in the folder.
            f"export PYTHONPATH={shlex.quote(os.pathsep.join(path))}${{PYTHONPATH:+:$PYTHONPATH}} PYTHONSAFEPATH=1",
            f"export OMP_NUM_THREADS={threads or counted}",
            " ".join(["exec", command, *meet, shlex.join(arguments)]),
            "",
        ]
    )


def _from_here(environment: Mapping[str, str]) -> dict[str, str]:
    found = given(environment)
    # A list of ranks, or what torchrun itself was told, is of this process alone.
    own = ("TORCHELASTIC_", "DINOMILL_LAUNCHER")
    return {
        name: value
        for name, value in found.items()
        if (name.startswith(_SAME_EVERYWHERE) or name in _SAME_NAMES) and not name.startswith(own)
    }
