from __future__ import annotations

import hashlib
import json
import pickle
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from dinomill.errors import ConfigError, InputError, StorageError
from dinomill.training import checkpoint_writer
from dinomill.training.checkpoint import Checkpoints
from dinomill.training.checkpoint_files import read_meta, write_meta
from dinomill.training.identity import differences
from dinomill.training.parallel import World

HERE = World(0, 1, torch.device("cpu"))
IDENTITY = {"seed": 1, "schedule": {"learning_rate": 1e-3, "warmup": 10}}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.layers = nn.Sequential(self.first, nn.LayerNorm(8), nn.Linear(8, 2))
        self.center: torch.Tensor
        self.register_buffer("center", torch.zeros(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.layers(x)
        return y


def make() -> tuple[Net, torch.optim.Optimizer]:
    torch.manual_seed(0)
    module = Net()
    named = dict(module.named_parameters())
    groups = [
        {"params": [p for n, p in named.items() if "weight" in n], "lr_multiplier": 0.5, "last_layer": False},
        {"params": [p for n, p in named.items() if "bias" in n], "lr_multiplier": 1.0, "last_layer": True},
    ]
    return module, torch.optim.AdamW(groups, lr=1e-2)


def train(module: Net, optimizer: torch.optim.Optimizer, steps: range) -> list[float]:
    losses = []
    for step in steps:
        torch.manual_seed(step)
        loss = module(torch.randn(16, 4)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        module.center.add_(step)
        losses.append(loss.item())
    return losses


def checkpoints(tmp_path: Path, keep: int = 2, keep_every: int = 0, **changes: object) -> Checkpoints:
    return Checkpoints(
        tmp_path / "checkpoints", world=HERE, identity=IDENTITY | changes, keep=keep, keep_every=keep_every
    )


def test_continued_run_is_bit_identical(tmp_path: Path) -> None:
    module, optimizer = make()
    expected = train(module, optimizer, range(6))

    module, optimizer = make()
    train(module, optimizer, range(3))
    store = checkpoints(tmp_path)
    store.save(3, module, optimizer)
    train(module, optimizer, range(3, 5))  # what is being written is not what is being trained
    store.finish()
    module, optimizer = make()
    assert checkpoints(tmp_path).load(module, optimizer)[0] == 3
    assert module.center.tolist() == [3.0, 3.0, 3.0]
    assert [group["lr_multiplier"] for group in optimizer.param_groups] == [0.5, 1.0]
    assert train(module, optimizer, range(3, 6)) == expected[3:]


def test_newest_one_every_so_many_and_best_are_kept(tmp_path: Path) -> None:
    module, optimizer = make()
    train(module, optimizer, range(1))
    store = checkpoints(tmp_path, keep=2, keep_every=4)
    for step in range(1, 9):
        store.save(step, module, optimizer, best=("knn", 0.8) if step == 2 else None, last=True)
    assert store.shelf.steps() == [2, 4, 7, 8]
    best = store.best()
    assert best is not None
    assert (best.step, best.measure, best.value) == (2, "knn", 0.8)
    assert not store.is_best("knn", 0.7)
    assert store.is_best("knn", 0.9)
    assert store.is_best("effective_rank", 0.1)
    assert not list((tmp_path / "checkpoints").glob(".*"))
    store.forget_after(1)
    assert store.best() is None


def test_nothing_there_is_step_zero(tmp_path: Path) -> None:
    assert checkpoints(tmp_path).load(*make()) == (0, {})


def test_what_lies_beyond_the_end_of_a_shorter_run_is_not_taken(tmp_path: Path) -> None:
    module, optimizer = make()
    store = checkpoints(tmp_path)
    for step in (3, 6):
        store.save(step, module, optimizer, last=True)
    assert store.load(module, optimizer, until=5)[0] == 3


def test_what_lies_beyond_does_not_push_out_what_is_written_now(tmp_path: Path) -> None:
    # A run that was made shorter, or went on before a damaged one: of 3 is to be continued, not of nothing.
    module, optimizer = make()
    for step in (7, 8):
        checkpoints(tmp_path).save(step, module, optimizer, last=True)
    store = checkpoints(tmp_path, keep=2)
    assert store.load(module, optimizer, until=5)[0] == 0
    for step in (1, 2, 3):
        store.save(step, module, optimizer, last=True)
    assert store.shelf.steps() == [2, 3, 7, 8]
    assert checkpoints(tmp_path).load(module, optimizer, until=5)[0] == 3


def test_a_copy_that_somebody_made_beside_them_is_none_of_them(tmp_path: Path) -> None:
    module, optimizer = make()
    store = checkpoints(tmp_path)
    store.save(3, module, optimizer, last=True)
    copy = store.shelf.folder / "step_00000003.bak"
    shutil.copytree(store.shelf.path(3), copy)
    assert checkpoints(tmp_path).load(module, optimizer)[0] == 3
    store.save(4, module, optimizer, last=True)
    assert copy.is_dir()


def test_other_job_is_refused_with_its_keys(tmp_path: Path) -> None:
    module, optimizer = make()
    checkpoints(tmp_path).save(1, module, optimizer, last=True)
    with pytest.raises(ConfigError) as caught:
        checkpoints(tmp_path, schedule={"learning_rate": 2e-3, "warmup": 10}, patch=7).load(module, optimizer)
    text = str(caught.value)
    assert "schedule.learning_rate: 0.001 in the checkpoint, 0.002 now" in text
    assert "patch: '(not there)' in the checkpoint, 7 now" in text
    assert "warmup" not in text


def test_half_written_checkpoint_does_not_count(tmp_path: Path) -> None:
    module, optimizer = make()
    store = checkpoints(tmp_path)
    store.save(1, module, optimizer, last=True)
    folder = tmp_path / "checkpoints"
    # What a SIGKILL in the middle of a save, and one in the middle of a removal, leave.
    (folder / ".step_00000002.tmp").mkdir()
    (folder / "step_00000003").mkdir()
    assert store.load(module, optimizer)[0] == 1
    store.save(4, module, optimizer, last=True)
    assert sorted(path.name for path in folder.iterdir()) == ["step_00000001", "step_00000004"]


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 4  # one bit of one number
    path.write_bytes(data)


def flipped_in_the_header(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[20] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [truncated, flipped, flipped_in_the_header, Path.unlink])
@pytest.mark.parametrize("name", ["part_00000.safetensors", "meta.json"])
def test_damaged_checkpoint_falls_back_to_the_one_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None], name: str
) -> None:
    module, optimizer = make()
    store = checkpoints(tmp_path)
    train(module, optimizer, range(1))
    store.save(1, module, optimizer, last=True)
    weights = module.first.weight.detach().clone()
    train(module, optimizer, range(1, 2))
    store.save(2, module, optimizer, last=True)
    damage(tmp_path / "checkpoints" / "step_00000002" / name)
    module, optimizer = make()
    assert store.load(module, optimizer)[0] == 1
    assert torch.equal(module.first.weight, weights)
    if (name, damage) != ("meta.json", Path.unlink):  # without it, a folder is one that was being removed
        assert "step_00000002" in caplog.text
        assert "IS DAMAGED AND IS NOT USED" in caplog.text


def test_nothing_but_damaged_checkpoints_is_no_beginning(tmp_path: Path) -> None:
    module, optimizer = make()
    store = checkpoints(tmp_path)
    store.save(1, module, optimizer, last=True)
    truncated(tmp_path / "checkpoints" / "step_00000001" / "part_00000.safetensors")
    with pytest.raises(InputError, match="No checkpoint"):
        store.load(module, optimizer)


class Planted:
    """A pickle that leaves a trace where it is read."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self._trace,)


@pytest.mark.parametrize("name", ["part_00000.safetensors", "meta.json", ".metadata", "__0_0.distcp"])
@pytest.mark.parametrize("sealed", [False, True])
def test_a_planted_pickle_is_not_executed(tmp_path: Path, name: str, sealed: bool) -> None:
    module, optimizer = make()
    train(module, optimizer, range(1))
    store = checkpoints(tmp_path)
    for step in (1, 2):
        store.save(step, module, optimizer, last=True)
    folder, trace = tmp_path / "checkpoints" / "step_00000002", tmp_path / "executed"
    text = pickle.dumps(Planted(trace))
    pickle.loads(text)
    assert trace.exists()  # it would be
    trace.unlink()
    (folder / name).write_bytes(text)
    if sealed and name.startswith("part"):  # by one who knows how: length, hash and seal are right
        meta = read_meta(folder)
        (record,) = meta["files"]
        record |= {"size": len(text), "sha256": hashlib.sha256(text).hexdigest()}
        write_meta(folder, meta)
    done, _ = store.load(*make())
    assert done == (1 if name in ("part_00000.safetensors", "meta.json") else 2)
    assert not trace.exists()


def test_other_format_is_refused(tmp_path: Path) -> None:
    module, optimizer = make()
    store = checkpoints(tmp_path)
    store.save(1, module, optimizer, last=True)
    path = tmp_path / "checkpoints" / "step_00000001" / "meta.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 1}))
    with pytest.raises(ConfigError, match="format"):
        store.load(module, optimizer)


def test_the_parts_are_safetensors_for_any_reader(tmp_path: Path) -> None:
    module, optimizer = make()
    train(module, optimizer, range(2))
    checkpoints(tmp_path).save(2, module, optimizer, last=True)
    found = load_file(tmp_path / "checkpoints" / "step_00000002" / "part_00000.safetensors")
    assert torch.equal(found["module.first.weight"], module.first.weight)
    assert float(found["optimizer.first.weight.step"]) == 2


def test_what_is_not_finite_is_not_kept(tmp_path: Path) -> None:
    module, optimizer = make()
    store = checkpoints(tmp_path)
    store.save(1, module, optimizer, last=True)
    with torch.no_grad():
        module.first.weight[0, 0] = torch.inf
    with pytest.raises(InputError, match=r"module\.first\.weight holds a number that is not finite"):
        store.save(2, module, optimizer, last=True)
    assert store.shelf.steps() == [1]


def test_full_disk_is_loud_and_tried_again_until_there_is_room(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(checkpoint_writer, "RETRY_SECONDS", 0.2)
    module, optimizer = make()
    train(module, optimizer, range(1))
    store = checkpoints(small_disk, keep=5)
    store.save(1, module, optimizer, last=True)
    filler = small_disk / "filler"
    with suppress(OSError), filler.open("wb") as file:
        file.write(bytes(65536))
    begun = time.monotonic()
    store.save(2, module, optimizer)
    assert time.monotonic() - begun < 0.2  # nothing waits for the disk
    while caplog.text.count("WAS NOT WRITTEN; it is tried again") < 2:
        time.sleep(0.02)
    assert "No space left" in caplog.text
    assert store.shelf.steps() == [1]
    train(module, optimizer, range(1, 2))
    filler.unlink()
    while store.shelf.steps() != [1, 2]:
        time.sleep(0.02)
    assert "is written now" in caplog.text
    again, its_optimizer = make()
    assert store.load(again, its_optimizer)[0] == 2
    assert float(again.center[0]) == 0  # the state of then, not of now


def test_full_disk_gives_way_to_the_next_checkpoint_and_ends_the_last(small_disk: Path) -> None:
    module, optimizer = make()
    train(module, optimizer, range(1))
    store = checkpoints(small_disk, keep=5)
    store.save(1, module, optimizer, last=True)
    filler = small_disk / "filler"
    with suppress(OSError), filler.open("wb") as file:
        file.write(bytes(65536))
    store.save(2, module, optimizer)
    time.sleep(0.5)
    filler.unlink()
    store.save(3, module, optimizer, last=True)
    assert store.shelf.steps() == [1, 3]
    with suppress(OSError), filler.open("wb") as file:
        file.write(bytes(65536))
    with pytest.raises(StorageError, match="No space left"):
        store.save(4, module, optimizer, last=True)
    assert store.load(module, optimizer)[0] == 3


def test_differences_are_dotted_and_complete() -> None:
    assert differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}, "d": 4}) == [
        ("a.c", 2, 3),
        ("d", "(not there)", 4),
    ]
    assert differences({"a": [1, 2]}, {"a": [1, 2]}) == []
