"""Spreading a training over processes: none, DDP or FSDP2, by configuration. Model code knows nothing of it."""

from __future__ import annotations

import contextlib
import datetime
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.nn.parallel import DistributedDataParallel

from dinomill.errors import ConfigError, MachineError
from dinomill.models.layers import Block
from dinomill.training.config import ParallelConfig


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

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process. Host to host: it never waits for a GPU."""
        if self.size == 1:
            return flag
        number = torch.tensor(int(flag))  # on the host: the default group carries it over gloo
        dist.all_reduce(number, op=dist.ReduceOp.MAX)
        return bool(number)

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
    if "WORLD_SIZE" not in os.environ:
        # DDP or FSDP2 with one process: the same code path, for tests and for checkpoints that move between them.
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "RANK": "0", "WORLD_SIZE": "1"}
    dist.init_process_group(
        # Host tensors always go through gloo: the stop flag must not wait for a GPU.
        "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo",
        timeout=datetime.timedelta(minutes=config.timeout_minutes),
        device_id=chosen if chosen.type == "cuda" else None,
    )
    try:
        yield World(rank, size, chosen)
    finally:
        dist.destroy_process_group()


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
            )
    return _shard(module, world, dtype, methods)


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
    if isinstance(module, FSDPModule):
        module.reshard()


def _shard(module: nn.Module, world: World, dtype: torch.dtype, methods: tuple[str, ...]) -> nn.Module:
    """FSDP2: each block is a unit, all that is left (tokens, norms, heads) one more, gathered for the whole step."""
    mesh = init_device_mesh(world.device.type, (world.size,))
    # Half the communication, where the kernels take parameters of another precision than the tokens', which stay fp32
    # between the blocks. Heads and prototypes, in the outer unit, stay fp32 altogether.
    half = dtype if world.device.type == "cuda" and dtype != torch.float32 else None
    inner = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32, cast_forward_inputs=False)
    outer = MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False)
    for part in module.modules():
        if isinstance(part, Block):
            fully_shard(part, mesh=mesh, mp_policy=inner)
    fully_shard(module, mesh=mesh, mp_policy=outer, reshard_after_forward=False)
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
