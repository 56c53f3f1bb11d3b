"""How training processes are started: kinds of launchers, and what schedulers are told.

Kedro reads this at every start: nothing here is slow to import.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from dinomill.config import Config
from dinomill.execution.given import is_secret

# One line of a script, or one word of it.
Line = Annotated[str, Field(pattern=r"^[^\n\r\x00]*$")]
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)]
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class SlurmConfig(Config):
    """What ``sbatch`` is told."""

    partition: Line | None = Field(default=None, description="SLURM partition; None for the cluster's default")
    account: Line | None = Field(default=None, description="account that is charged")
    time: Line = Field(default="24:00:00", description="time limit, in SLURM's form [days-]hours:minutes:seconds")
    gpus_per_node: int = Field(default=8, ge=0, description="GPUs asked for on each node")
    cpus_per_task: int = Field(default=64, ge=1, description="CPU cores on each node")
    memory: Line = Field(default="0", description="memory a node; 0 is all of it")
    options: tuple[Line, ...] = Field(default=(), description="further #SBATCH options, such as --constraint=h100")
    setup: tuple[Line, ...] = Field(
        default=(), description="shell lines run first on every node, such as `module load cuda`"
    )
    port: int = Field(default=29500, ge=1024, le=65535, description="port where the nodes meet, on the first of them")
    look_every: float = Field(
        default=15.0, gt=0, description="seconds between two looks at the queue, while the stage waits for the job"
    )


class KubernetesConfig(Config):
    """What the manifest of a Kubeflow PyTorchJob says."""

    namespace: Name = Field(default="default", description="where the job lives")
    image: Line | None = Field(
        default=None, description="container image with the packages of requirements/; needed for kind kubernetes"
    )
    python: Line = Field(default="python", description="the interpreter in the image")
    claim: Name | None = Field(
        default=None, description="PersistentVolumeClaim, ReadWriteMany, with data and work folder; needed as well"
    )
    mount: Path | None = Field(
        default=None, description="where the claim is mounted, here and there; null: the project's folder"
    )
    gpus_per_node: int = Field(default=8, ge=0, description="GPUs (nvidia.com/gpu) a pod")
    cpus_per_node: int = Field(default=64, ge=1, description="CPU cores a pod")
    memory: str = Field(
        default="512Gi", pattern=r"^[0-9]+(\.[0-9]+)?(Ki|Mi|Gi|Ti|k|M|G|T)?$", description="memory a pod"
    )
    shared_memory: str = Field(
        default="16Gi",
        pattern=r"^[0-9]+(\.[0-9]+)?(Ki|Mi|Gi|Ti|k|M|G|T)?$",
        description="of it as /dev/shm, for NCCL and loader.kind processes",
    )
    node_selector: dict[str, str] = Field(default={}, description="labels of the machines to take")
    tolerations: tuple[str, ...] = Field(
        default=("nvidia.com/gpu",), description="keys of taints that do not keep the pods away"
    )
    service_account: Name | None = Field(
        default=None, description="whose rights the pods have, such as a role for S3; null: the namespace's default"
    )
    s3_secret: Name | None = Field(
        default=None,
        description="Secret whose key `credentials` is an AWS credentials file: mounted as a file, never a variable",
    )
    retries: int = Field(default=10, ge=0, description="pods that are lost or end badly, in all, until it is given up")


class LauncherConfig(Config):
    """How many processes train, and what starts them."""

    kind: Literal["inline", "torchrun", "slurm", "kubernetes"] = Field(
        default="inline",
        description="inline: one child process; torchrun: `processes` on this machine, or on `nodes` that meet at "
        "`rendezvous`; slurm: a job of `nodes` × `processes`; kubernetes: a manifest for one",
    )
    processes: int = Field(default=1, ge=1, description="processes a node: one for each GPU")
    nodes: int = Field(default=1, ge=1, description="nodes; more than one for torchrun needs a `rendezvous`")
    min_nodes: int | None = Field(
        default=None,
        ge=1,
        description="go on with so many when nodes are lost, and with more when they are back (torchrun's min:max); "
        "batch_size must be a multiple of every number of processes in between; null: all or none",
    )
    rendezvous: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9._\-\[\]:]+:[0-9]{2,5}$",
        description="HOST:PORT where machines without a scheduler meet (torchrun): one of them, reached by all; the "
        "others are started by the command that is printed",
    )
    join_seconds: int = Field(
        default=30,
        ge=1,
        description="how long nodes wait for more, once `min_nodes` are there; what a lost node costs at the least",
    )
    threads: int = Field(default=0, ge=0, description="CPU threads a process; 0 shares this machine's cores evenly")
    restarts: int = Field(
        default=3,
        ge=0,
        description="how often torchrun starts all workers again when one dies: they go on from the last checkpoint",
    )
    variables: tuple[Variable, ...] = Field(
        default=(),
        description="further environment variables for the workers, by name (the list that they get: "
        "docs/how-to/several-machines.md); no secrets",
    )
    slurm: SlurmConfig = Field(default_factory=SlurmConfig, description="for kind slurm")
    kubernetes: KubernetesConfig = Field(default_factory=KubernetesConfig, description="for kind kubernetes")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.min_nodes is not None and self.min_nodes > self.nodes:
            raise ValueError(f"min_nodes is {self.min_nodes}, nodes is {self.nodes}: it cannot be more")
        if self.kind == "torchrun" and self.nodes > 1 and self.rendezvous is None:
            raise ValueError(
                f"nodes is {self.nodes}: for kind torchrun say where they meet (rendezvous: HOST:PORT), or take slurm"
            )
        if self.kind == "kubernetes" and (self.kubernetes.image is None or self.kubernetes.claim is None):
            raise ValueError("kind is kubernetes: kubernetes.image and kubernetes.claim must be said")
        secrets = [name for name in self.variables if is_secret(name)]
        if secrets:
            raise ValueError(
                f"variables names {', '.join(secrets)}: workers get no secret; S3 is reached by a credentials file"
            )
        return self

    @property
    def several_nodes(self) -> bool:
        """Whether machines meet that do not start each other."""
        return self.kind in ("slurm", "kubernetes") or (self.kind == "torchrun" and self.nodes > 1)

    @property
    def elsewhere(self) -> bool:
        """Whether the workers run on machines that this one does not start them on."""
        return self.kind in ("slurm", "kubernetes")

    @property
    def fewest_nodes(self) -> int:
        """With how many nodes it may go on."""
        return self.nodes if self.min_nodes is None else self.min_nodes

    @property
    def world_sizes(self) -> list[int]:
        """The numbers of processes that may train together, where nodes may be lost."""
        if not self.several_nodes:
            return [self.world_size]
        return [nodes * self.processes for nodes in range(self.fewest_nodes, self.nodes + 1)]

    @property
    def world_size(self) -> int:
        """The number of processes that train together."""
        return 1 if self.kind == "inline" else self.nodes * self.processes
