"""Batches in one piece of memory: on their way to a device, and between processes."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dinomill.handles import DatasetHandle
from dinomill.images.batches import TENSORS, Batch, unpack
from dinomill.images.canvases import Canvas, canvases
from dinomill.images.crop_plan import MultiCropConfig
from dinomill.images.loader import TrainingLoader
from dinomill.images.loader_config import LoaderConfig
from dinomill.images.packing import Layout
from dinomill.images.render_batched import render
from dinomill.images.slots import Slots, SlotWriter
from dinomill.images.transfer import PlainTransfer, Sent
from tests.images.test_loader import load, same

Array = np.ndarray[Any, Any]
CROPS = MultiCropConfig(global_size=56, local_size=28, local_crops=3, solarise=0.5)


@pytest.fixture(scope="module")
def handle(dataset: Callable[..., DatasetHandle], photos: list[Array]) -> DatasetHandle:
    """Photographs, a panorama and a tower among them."""
    coffee = photos[1]
    return dataset([*photos, np.hstack([coffee] * 3)[:100], np.vstack([coffee] * 3)[:, :90]], "JPEG")


def loader_of(handle: DatasetHandle, on_device: bool = True, **options: Any) -> TrainingLoader:
    loader = load(handle, crops=CROPS, patch_size=14, batch_size=7, **{"steps": 4, **options})
    loader.on_device = on_device  # what a GPU does, with torch's CPU in its place
    return loader


def test_a_packed_batch_is_the_same_to_the_last_bit(handle: DatasetHandle) -> None:
    loader = loader_of(handle, loader=LoaderConfig(backend="batched"))
    for step, batch in enumerate(loader):
        raw = loader._maker.raw(step)
        outline, arrays = loader._maker._prepared(raw)
        assert outline.parts > 1  # the panorama and the tower lie apart
        whole = {name: a.array() if isinstance(a, Canvas) else a for name, a in arrays.items()}
        crops = render({name: torch.from_numpy(array) for name, array in whole.items()}, outline)
        assert torch.equal(batch.global_crops, crops[0].reshape(-1, 3, 56, 56))
        assert torch.equal(batch.local_crops, crops[1].reshape(-1, 3, 28, 28))
        assert batch.indices.tolist() == raw.rows.tolist()
        assert np.array_equal(batch.masks.numpy(), raw.masks.masks)
        assert np.array_equal(batch.mask_weights.numpy(), raw.masks.weights)


@pytest.mark.parametrize("backend", ["opencv", "batched"])
def test_threads_and_processes_give_the_same_bytes(handle: DatasetHandle, backend: str) -> None:
    on_device = backend == "batched"
    threads, processes = (
        list(loader_of(handle, on_device, loader=LoaderConfig(backend=backend, kind=kind, workers=2)))
        for kind in ("threads", "processes")
    )
    assert len(threads) == 4 and all(same(a, b) for a, b in zip(threads, processes, strict=True))


class Copies(TorchDispatchMode):
    """Counts what is launched, and what crosses to another device."""

    def __init__(self) -> None:
        super().__init__()
        self.crossings = self.launches = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and not func.is_view:
            self.launches += 1
            source = args[0] if args and isinstance(args[0], torch.Tensor) else result
            self.crossings += source.device != result.device
        return result


def test_a_device_gets_one_copy_and_is_never_asked(handle: DatasetHandle) -> None:
    """On the ``meta`` device a read fails, and so does an operation on tensors of two devices."""
    loader = load(handle, crops=CROPS, patch_size=14, batch_size=7, steps=3, device="meta")
    assert loader.on_device
    for batch in loader:
        assert {getattr(batch, name).device.type for name in TENSORS} == {"meta"}
        assert batch.global_crops.shape == (14, 3, 56, 56) and batch.local_crops.shape == (21, 3, 28, 28)
        assert batch.global_crops.dtype == torch.float32 and batch.masks.dtype == torch.bool
    packed, memory = loader._make_packed(5)
    with Copies() as copies:
        unpack(packed, memory.to("meta"))
    assert copies.crossings == 1
    parts = packed.outline.parts if packed.outline else 0
    assert copies.launches <= 220 * parts  # crops of two sizes; 771 when every number of the plan was a copy
    arrays = packed.layout.unpack(memory.to("meta")) | {"gain": torch.ones(3, 1)}
    with pytest.raises(RuntimeError, match="device"):
        render(arrays, packed.outline)


def test_a_batch_is_sent_ahead_of_the_one_that_is_used(handle: DatasetHandle) -> None:
    class Noted(PlainTransfer):
        def __init__(self) -> None:
            super().__init__(torch.device("cpu"))
            self.events: list[tuple[str, int]] = []

        def send(self, host: torch.Tensor, finish: Any) -> Sent:
            sent = super().send(host, finish)
            self.events.append(("sent", sent.batch.step))
            return sent

        def receive(self, sent: Sent) -> Batch:
            self.events.append(("used", sent.batch.step))
            return sent.batch

    loader = loader_of(handle, loader=LoaderConfig(workers=2, prefetch=3), steps=6)
    transfer = loader._transfer = Noted()
    expected = list(loader_of(handle, steps=6))
    found = []
    for batch in loader:
        assert loader._pool is not None
        loader._pool.submit(int).result()  # as long as a step: what was begun before is done
        found.append(batch)
    assert all(same(a, b) for a, b in zip(expected, found, strict=True))
    assert [step for what, step in transfer.events if what == "used"] == list(range(6))
    ahead = [transfer.events.index(("sent", n + 1)) < transfer.events.index(("used", n)) for n in range(5)]
    assert sum(ahead) >= 3


def test_two_panoramas_make_no_large_canvas() -> None:
    random = np.random.default_rng(0)
    shapes = [(300, 4000), (4000, 300), *[tuple(random.integers(200, 500, 2)) for _ in range(30)]]
    images = [np.zeros((h, w, 3), np.uint8) for h, w in shapes]
    boxes = np.array([[(0, 0, h, w) for h, w in shapes]])
    parts = canvases(images, boxes)
    assert sorted(np.concatenate([part.columns for part in parts]).tolist()) == list(range(32))
    pixels = sum(image.size for image in images)
    assert sum(np.prod(part.shape) for part in parts) <= 2 * pixels  # padded together: 32 × 4,000 × 4,000
    assert len(parts) <= 4
    alike = [np.zeros((400, 300 + number, 3), np.uint8) for number in range(9)]
    assert len(canvases(alike, np.array([[(0, 0, *image.shape[:2]) for image in alike]]))) == 1


def test_a_canvas_holds_what_the_boxes_cover() -> None:
    image = np.arange(40 * 60 * 3, dtype=np.uint32).astype(np.uint8).reshape(40, 60, 3)
    boxes = np.array([[(5, 10, 8, 9)], [(7, 4, 20, 10)]])
    (part,) = canvases([image], boxes)
    assert part.shape == (1, 22, 3, 15)
    assert part.boxes[:, 0].tolist() == [[0, 6, 8, 9], [2, 0, 20, 10]]
    assert np.array_equal(part.array()[0], image[5:27, 4:19].transpose(0, 2, 1))


def test_what_is_packed_comes_back() -> None:
    arrays = {
        "a": np.arange(5, dtype=np.int64),
        "none": np.zeros((0, 3), np.float32),
        "b": np.array([[True, False]]),
        "c": np.linspace(0, 1, 7, dtype=np.float32).reshape(7, 1),
    }
    layout = Layout.of(arrays)
    memory = np.full(layout.size + 100, 255, np.uint8)
    layout.pack(arrays, memory)
    found = layout.unpack(torch.from_numpy(memory))
    for name, array in arrays.items():
        assert found[name].shape == array.shape and np.array_equal(found[name].numpy(), array)


def test_slots_grow_and_are_used_again_when_nothing_refers_to_them() -> None:
    registered: list[int] = []
    slots, writer = Slots(lambda memory: registered.append(len(memory))), SlotWriter()
    slot = slots.take()
    writer.memory(slot, 1000)[:3] = (1, 2, 3)
    tensor = slots.content(slot[1])
    row = tensor[:3]
    del tensor
    gc.collect()
    other = slots.take()
    assert other != slot
    writer.memory(other, 1000)[:3] = 9
    assert row.tolist() == [1, 2, 3]
    del row
    gc.collect()
    assert slots.take() == slot
    writer.memory(slot, 10_000)[9_999] = 7
    assert int(slots.content(slot[1])[9_999]) == 7
    assert len(registered) == 2 and registered[1] >= 10_000
