"""What a checkpoint holds of a training, by name and by process, whichever way it is spread over them.

    module.<name>                  parameters and buffers, but for a distillation's frozen teacher, which is given anew
    optimizer.<parameter>.<key>    AdamW's moments and its count of steps

A sharded tensor (FSDP2) is saved by each process that holds a shard, one that all processes hold by one of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from dinomill.training.checkpoint_files import Slice
from dinomill.training.parallel import World

# Given by another stage, and the same from beginning to end.
_NOT_SAVED = "frozen_teacher."


def named_tensors(module: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> dict[str, Tensor]:
    """The tensors of a training as they lie, by their names in a checkpoint."""
    found: dict[str, Tensor] = {
        f"module.{name}": tensor for name, tensor in module.state_dict().items() if not name.startswith(_NOT_SAVED)
    }
    if optimizer is not None:
        for name, parameter in _optimised(module, optimizer):
            for key, tensor in optimizer.state.get(parameter, {}).items():
                found[f"optimizer.{name}.{key}"] = tensor
    return found


def prepare_moments(module: nn.Module, optimizer: torch.optim.Optimizer, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Give each parameter the state that a checkpoint has of it, still empty: an optimiser makes it at its first step.

    Args:
        module: Names the parameters.
        optimizer: To be loaded.
        shapes: Of the tensors in the checkpoint.
    """
    keys: dict[str, list[str]] = {}
    for full in shapes:
        if full.startswith("optimizer."):
            name, _, key = full.removeprefix("optimizer.").rpartition(".")
            keys.setdefault(name, []).append(key)
    for name, parameter in _optimised(module, optimizer):
        state = optimizer.state[parameter]
        for key in keys.get(name, ()):
            if key in state:
                continue
            if shapes[f"optimizer.{name}.{key}"] == () and parameter.dim() > 0:
                # The count of steps: on the device where the fused kernels read it there.
                state[key] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            else:
                state[key] = torch.zeros_like(parameter)


def _optimised(module: nn.Module, optimizer: torch.optim.Optimizer) -> Iterable[tuple[str, Tensor]]:
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            yield names[id(parameter)], parameter


def local_slices(tensors: Mapping[str, Tensor]) -> dict[str, Slice]:
    """What this process holds of each tensor; nothing of those of which it has an empty shard."""
    found = {}
    for name, tensor in tensors.items():
        part = _local(tensor)
        if part.tensor.numel() or not part.whole:
            found[name] = part
    return found


def own_slices(tensors: Mapping[str, Tensor], world: World) -> dict[str, Slice]:
    """What this process is to save: its shards, and its share of what all processes hold."""
    local = local_slices(tensors)
    burden = [0] * world.size
    mine: dict[str, Slice] = {}
    # The largest first, each to the process that has least to do: the same shares in all processes.
    for name in sorted(tensors, key=lambda name: (-tensors[name].numel(), name)):
        tensor = tensors[name]
        if isinstance(tensor, DTensor):
            if name in local and _first_replica(tensor):
                mine[name] = local[name]
            continue
        least = burden.index(min(burden))
        burden[least] += tensor.numel() * tensor.element_size()
        if least == world.rank:
            mine[name] = local[name]
    return mine


def _local(tensor: Tensor) -> Slice:
    if not isinstance(tensor, DTensor):
        return Slice(tensor.detach(), (0,) * tensor.dim(), tuple(tensor.shape))
    _, offset = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    return Slice(tensor.to_local().detach(), tuple(offset), tuple(tensor.shape))


def _first_replica(tensor: DTensor) -> bool:
    """Whether this process's shard, of those that are the same in several processes (HSDP), is the one to save."""
    place = tensor.device_mesh.get_coordinate()
    assert place is not None, "every process takes part"
    return all(
        at == 0 for at, placement in zip(place, tensor.placements, strict=True) if isinstance(placement, Replicate)
    )


class Stage:
    """Copies on the host that are written while the training goes on; the memory is used again."""

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}

    def copy(self, slices: Mapping[str, Slice]) -> dict[str, Slice]:
        """Copy slices; waits for the device, once."""
        staged = {}
        on_gpu = False
        for name, part in slices.items():
            host = self._kept.get(name)
            on_gpu |= part.tensor.is_cuda
            if host is None or host.shape != part.tensor.shape:
                host = torch.empty(part.tensor.shape, dtype=part.tensor.dtype, pin_memory=part.tensor.is_cuda)
                self._kept[name] = host
            host.copy_(part.tensor, non_blocking=True)
            staged[name] = part._replace(tensor=host)
        if on_gpu:
            torch.cuda.current_stream().synchronize()
        return staged


def full_tensors(module: nn.Module, prefix: str) -> dict[str, Tensor]:
    """Tensors of a module whole and on the host; every process must call it, under FSDP2 it gathers them."""
    found = {}
    for name, tensor in module.state_dict().items():
        if name.startswith(prefix):
            gather = getattr(tensor, "full_tensor", None)
            found[name] = (tensor if gather is None else gather()).detach().cpu()
    return found
