"""Spreading a training over processes: none, DDP, FSDP2 or HSDP, by configuration. Model code knows nothing of it.

FSDP2 shards over all processes. HSDP shards within groups of them, as a rule the GPUs of a machine, and keeps a replica
in each group: parameters travel within a machine, only gradients between machines.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.nn.parallel import DistributedDataParallel

from dinomill.errors import ConfigError, MachineError
from dinomill.models import ProjectionHead
from dinomill.models.student import StudentBackbone
from dinomill.training.config import ParallelConfig

log = logging.getLogger(__name__)

Value = TypeVar("Value")

# A student's blocks stay gathered between forward and backward up to so many parameters (ViT-L has 302 million: 0.6 GB
# in bf16), which saves half of the gathering; larger ones are gathered again.
_STAY_GATHERED = 320_000_000

# Bytes broadcast together.
_BUCKET = 250 * 2**20

# After an error of its own a process waits so long for the others, who may be waiting for it.
_LEAVE_SECONDS = 10.0


@dataclass(frozen=True)
class World:
    """This process among those that train together."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def from_main(self, value: Value) -> Value:
        """What the main process gives, whatever the others do."""
        told = [value]
        if self.size > 1:
            dist.broadcast_object_list(told, device=torch.device("cpu"))
        return told[0]

    def mean(self, values: Tensor) -> Tensor:
        """The mean over the processes."""
        if self.size > 1:
            values = values.clone()
            dist.all_reduce(values)
            values /= self.size
        return values

    def gather(self, rows: Tensor) -> Tensor:
        """The rows of all processes, ``[R, …]`` to ``[size · R, …]``, in order of rank; all have the same R."""
        if self.size == 1:
            return rows
        parts = [torch.empty_like(rows) for _ in range(self.size)]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)


@contextlib.contextmanager
def world(config: ParallelConfig, device: str = "auto") -> Iterator[World]:
    """Join the other processes, as torchrun's environment describes them, and leave them at the end.

    Args:
        config: For the timeout.
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        MachineError: When a GPU is asked for and there is none.
    """
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    chosen = _device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if "WORLD_SIZE" not in os.environ and config.kind in ("none", "auto"):
        yield World(0, 1, chosen)
        return
    # DDP or FSDP2 with one process is the same code path, for tests and for checkpoints that move between them; it
    # meets nobody, and leaves nothing in the environment that would be taken for a launcher's word.
    alone: dict[str, Any] = {}
    if "WORLD_SIZE" not in os.environ:
        alone = {"store": dist.HashStore(), "rank": 0, "world_size": 1}  # type: ignore[attr-defined]
    dist.init_process_group(
        # Host tensors always go through gloo: the stop flag must not wait for a GPU.
        "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo",
        timeout=datetime.timedelta(minutes=config.timeout_minutes),
        device_id=chosen if chosen.type == "cuda" else None,
        **alone,
    )
    try:
        yield World(rank, size, chosen)
    except BaseException:
        _leave_at_once()
        raise
    dist.destroy_process_group()


def _leave_at_once() -> None:
    """Leave the group after an error: the others may be in a collective that this process will never join."""
    leaving = threading.Thread(target=dist.destroy_process_group, daemon=True, name="dinomill-leave")
    leaving.start()
    leaving.join(_LEAVE_SECONDS)
    if leaving.is_alive():
        log.warning("the other processes did not answer within %g s; this one ends without them", _LEAVE_SECONDS)


def parallelise(
    module: nn.Module,
    world: World,
    config: ParallelConfig,
    *,
    dtype: torch.dtype = torch.float32,
    methods: tuple[str, ...] = (),
    unused: bool = False,
) -> nn.Module:
    """Wrap a module whose ``forward`` computes the loss; call what is returned instead of it.

    Args:
        module: Student and teacher; what needs no gradient is neither reduced nor, under DDP, touched.
        world: The processes.
        config: Which way.
        dtype: Compute precision: on a GPU, FSDP2 gathers the blocks' parameters in it. Reductions are fp32.
        methods: Names of methods besides ``forward`` that read parameters; under FSDP2 call ``release`` after them.
        unused: Whether some parameters get no gradient in some steps, for which DDP would wait.
    """
    kind = config.kind
    if kind == "auto":
        kind = "ddp" if world.size > 1 else "none"
    if kind == "none":
        if world.size > 1:
            raise ConfigError(
                "parallel.kind is `none`, but several processes were started.",
                found=f"{world.size} processes",
                expected="ddp, fsdp2 or auto",
                action="set parallel.kind, or start one process",
            )
        return module
    if kind == "ddp":
        with warnings.catch_warnings():
            # Its successor is missing from the older versions of PyTorch that this runs with.
            warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")
            return DistributedDataParallel(
                module,
                device_ids=[world.device] if world.device.type == "cuda" else None,
                # Centres are reduced where they are computed; everything else starts equal because the seed is.
                broadcast_buffers=False,
                find_unused_parameters=unused,
                gradient_as_bucket_view=True,
                init_sync=False,  # `share_weights` did
            )
    return _shard(module, mesh_of(world, config), dtype, methods)


@contextlib.contextmanager
def reduced_at_the_end(wrapped: nn.Module, *, last: bool) -> Iterator[None]:
    """Add up gradients in each process, and reduce them over the processes with the last micro-batch only."""
    if isinstance(wrapped, FSDPModule):
        wrapped.set_requires_gradient_sync(last)
        yield
    elif isinstance(wrapped, DistributedDataParallel) and not last:
        with wrapped.no_sync():
            yield
    else:
        yield


def release(module: nn.Module) -> None:
    """Put gathered parameters away after a method that no backward pass follows; nothing but FSDP2 has any."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


def share_weights(module: nn.Module) -> None:
    """Give every process the main one's parameters and buffers."""
    tensors = [tensor.detach() for tensor in (*module.parameters(), *module.buffers())]
    group = dist.group.WORLD
    if tensors and group is not None and dist.get_world_size() > 1:
        dist._broadcast_coalesced(group, tensors, _BUCKET, 0)  # type: ignore[attr-defined]


def materialise(module: nn.Module, weights: nn.Module | None, device: torch.device) -> None:
    """Fill a sharded module that was made on the meta device; every process calls it.

    Args:
        module: Wrapped by ``parallelise``.
        weights: The same module whole, with its weights, in the main process; None in the others.
        device: Of the shards.
    """
    module.to_empty(device=device)
    whole = {} if weights is None else weights.state_dict()
    # A parameter at a time: no process but the main one ever holds all of them.
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_model_state_dict(module, whole, options=options)


def is_sharded(config: ParallelConfig) -> bool:
    """Whether no process holds all of the parameters."""
    return config.kind in ("fsdp2", "hsdp")


def mesh_of(world: World, config: ParallelConfig) -> DeviceMesh:
    """The processes as FSDP2 sees them: in a row, or under HSDP a row for every replica.

    Raises:
        ConfigError: When the processes cannot be shared evenly by the replicas.
    """
    if config.kind != "hsdp":
        return init_device_mesh(world.device.type, (world.size,))
    replicas = config.replicas or max(world.size // int(os.environ.get("LOCAL_WORLD_SIZE", world.size)), 1)
    if world.size % replicas:
        raise ConfigError(
            "The processes cannot be shared evenly by the replicas of parallel.kind hsdp.",
            found=f"{world.size} processes, parallel.replicas {replicas}",
            expected="a number of replicas that divides the number of processes",
            action="set parallel.replicas to the number of machines, each with as many processes",
        )
    shape = (replicas, world.size // replicas)
    return init_device_mesh(world.device.type, shape, mesh_dim_names=("replicate", "shard"))


def _shard(module: nn.Module, mesh: DeviceMesh, dtype: torch.dtype, methods: tuple[str, ...]) -> nn.Module:
    """FSDP2: each block and each head is a unit; what is left (tokens, norms) is one more, gathered for the step."""
    # Half the communication, where the kernels take parameters of another precision than the tokens', which stay fp32
    # between the blocks. Heads and prototypes stay fp32 altogether.
    half = dtype if mesh.device_type == "cuda" and dtype != torch.float32 else None
    inner = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32, cast_forward_inputs=False)
    outer = MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False)
    heads = [part for part in module.modules() if isinstance(part, ProjectionHead)]
    for backbone in [part for part in module.modules() if isinstance(part, StudentBackbone)]:
        parameters = [parameter for unit in backbone.units() for parameter in unit.parameters()]
        learns = any(parameter.requires_grad for parameter in parameters)
        stays = learns and sum(parameter.numel() for parameter in parameters) <= _STAY_GATHERED
        for unit in backbone.units():
            fully_shard(unit, mesh=mesh, mp_policy=inner, reshard_after_forward=not stays)
    for head in heads:
        # The losses read its prototypes after its bottleneck ran, and again in the backward pass.
        fully_shard(head, mesh=mesh, mp_policy=outer, reshard_after_forward=False)
        register_fsdp_forward_method(head, "bottleneck")
    fully_shard(module, mesh=mesh, mp_policy=outer, reshard_after_forward=False)
    assert isinstance(module, FSDPModule)
    # The heads travel while the backbones compute.
    module.set_modules_to_forward_prefetch([head for head in heads if isinstance(head, FSDPModule)])
    for method in methods:
        register_fsdp_forward_method(module, method)
    return module


def _device(name: str, local_rank: int) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    count = torch.cuda.device_count()
    if local_rank >= count:
        raise MachineError(
            f"Process {local_rank} on this machine needs a GPU of its own.",
            found=f"{count} GPUs" if count else "no GPU that PyTorch can use",
            action="lower launcher.processes, or set device to cpu",
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)
