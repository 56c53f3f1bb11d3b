"""What a step asks of its device: how many kernels are launched, and whether the host reads a value back.

A value that the host reads makes it wait for all that was launched before: a GPU then runs dry. Counted where PyTorch
dispatches its operations, which is the same on every device, so that it can be seen without a GPU.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_ATEN = torch.ops.aten
# Operations whose result the host must know before it can go on: a value, or a shape that depends on values.
_READS = {
    _ATEN._local_scalar_dense,
    _ATEN.equal,
    _ATEN.is_nonzero,
    _ATEN.nonzero,
    _ATEN.masked_select,
    _ATEN._unique2,
    _ATEN.unique_consecutive,
    _ATEN.unique_dim,
    _ATEN.bincount,
    _ATEN.repeat_interleave,
}
# Operations that launch nothing: other views of the same memory, and memory that nothing is written to yet.
_FREE = {
    _ATEN.alias,
    _ATEN.as_strided,
    _ATEN.detach,
    _ATEN.empty,
    _ATEN.empty_like,
    _ATEN.empty_strided,
    _ATEN.expand,
    _ATEN.lift_fresh,
    _ATEN.new_empty,
    _ATEN.new_empty_strided,
    _ATEN.permute,
    _ATEN.select,
    _ATEN.slice,
    _ATEN.split,
    _ATEN.split_with_sizes,
    _ATEN.squeeze,
    _ATEN.t,
    _ATEN.transpose,
    _ATEN.unbind,
    _ATEN.unfold,
    _ATEN.unsqueeze,
    _ATEN.view,
    _ATEN._unsafe_view,
    _ATEN._reshape_alias,
}


class StepCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts, while it is entered, what is asked of one device.

    Args:
        device: Type of the device; what happens on another one, as the drawing of random numbers on the host, is not
            counted.

    Attributes:
        kernels: Launches by the operation's name.
        reads: Values that the host reads, by the operation's name.
    """

    def __init__(self, device: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.device = device
        self.kernels: Counter[str] = Counter()
        self.reads: Counter[str] = Counter()

    @property
    def total(self) -> int:
        """All launches."""
        return self.kernels.total()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        packet, name = func.overloadpacket, str(func)
        here = any(tensor.device.type == self.device for tensor in _tensors((args, kwargs)))
        if here and (packet in _READS or _by_mask(packet, args)):
            self.reads[name] += 1
        out = func(*args, **kwargs)
        if here and any(tensor.device.type != self.device for tensor in _tensors(out)):
            self.reads[name] += 1
        if packet not in _FREE and (here or any(tensor.device.type == self.device for tensor in _tensors(out))):
            self.kernels[name] += 1
        return out


def _by_mask(packet: Any, args: tuple[Any, ...]) -> bool:
    """Whether rows are picked by a mask, whose length the host must know."""
    if packet not in (_ATEN.index, _ATEN.index_put, _ATEN.index_put_):
        return False
    return any(isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in args[1])


def _tensors(values: Any) -> list[Tensor]:
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, Mapping):
        values = list(values.values())
    if isinstance(values, (tuple, list)):
        return [tensor for value in values for tensor in _tensors(value)]
    return []
