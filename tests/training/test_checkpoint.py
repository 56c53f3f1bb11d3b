from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from dinomill.errors import ConfigError, InputError, StorageError
from dinomill.training.checkpoint import Checkpoints, differences

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


def checkpoints(tmp_path: Path, keep: int = 2, **changes: object) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints", keep=keep, identity=IDENTITY | changes)


def test_continued_run_is_bit_identical(tmp_path: Path) -> None:
    module, optimizer = make()
    expected = train(module, optimizer, range(6))

    module, optimizer = make()
    train(module, optimizer, range(3))
    checkpoints(tmp_path).save(3, module, optimizer)
    module, optimizer = make()
    assert checkpoints(tmp_path).load(module, optimizer)[0] == 3
    assert module.center.tolist() == [3.0, 3.0, 3.0]
    assert [group["lr_multiplier"] for group in optimizer.param_groups] == [0.5, 1.0]
    assert train(module, optimizer, range(3, 6)) == expected[3:]


def test_newest_and_best_are_kept(tmp_path: Path) -> None:
    module, optimizer = make()
    store = checkpoints(tmp_path, keep=2)
    for step in range(1, 6):
        store.save(step, module, optimizer)
        if step == 2:
            store.mark_best(step, "knn", 0.8)
    assert store.steps() == [2, 4, 5]
    assert store.best() == (2, "knn", 0.8)
    assert not list((tmp_path / "checkpoints").glob(".*"))
    store.forget_after(1)
    assert store.best() is None


def test_nothing_there_is_step_zero(tmp_path: Path) -> None:
    assert checkpoints(tmp_path).load(*make()) == (0, {})


def test_other_job_is_refused_with_its_keys(tmp_path: Path) -> None:
    module, optimizer = make()
    checkpoints(tmp_path).save(1, module, optimizer)
    with pytest.raises(ConfigError) as caught:
        checkpoints(tmp_path, schedule={"learning_rate": 2e-3, "warmup": 10}, patch=7).load(module, optimizer)
    text = str(caught.value)
    assert "schedule.learning_rate: 0.001 in the checkpoint, 0.002 now" in text
    assert "patch: '(not there)' in the checkpoint, 7 now" in text
    assert "warmup" not in text


def test_half_written_checkpoint_does_not_count(tmp_path: Path) -> None:
    module, optimizer = make()
    store = checkpoints(tmp_path)
    store.save(1, module, optimizer)
    folder = tmp_path / "checkpoints"
    # What a SIGKILL in the middle of a save, and one in the middle of a removal, leave.
    (folder / ".step_00000002.tmp").mkdir()
    (folder / "step_00000003").mkdir()
    assert store.load(module, optimizer)[0] == 1
    store.save(4, module, optimizer)
    assert sorted(path.name for path in folder.iterdir()) == ["step_00000001", "step_00000004"]


def test_damaged_checkpoint_falls_back_to_the_one_before(tmp_path: Path) -> None:
    module, optimizer = make()
    store = checkpoints(tmp_path)
    train(module, optimizer, range(1))
    store.save(1, module, optimizer)
    weights = module.first.weight.detach().clone()
    train(module, optimizer, range(1, 2))
    store.save(2, module, optimizer)
    for path in (tmp_path / "checkpoints" / "step_00000002").glob("*.distcp"):
        path.write_bytes(path.read_bytes()[:100])
    module, optimizer = make()
    assert store.load(module, optimizer)[0] == 1
    assert torch.equal(module.first.weight, weights)
    for path in (tmp_path / "checkpoints" / "step_00000001").glob("*.distcp"):
        path.unlink()
    with pytest.raises(InputError, match="No checkpoint"):
        store.load(module, optimizer)


def test_other_format_is_refused(tmp_path: Path) -> None:
    module, optimizer = make()
    store = checkpoints(tmp_path)
    store.save(1, module, optimizer)
    path = tmp_path / "checkpoints" / "step_00000001" / "meta.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    with pytest.raises(ConfigError, match="format"):
        store.load(module, optimizer)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_is_said_and_leaves_older_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, optimizer = make()
    store = checkpoints(tmp_path)
    store.save(1, module, optimizer)
    # The data file of the next checkpoint becomes /dev/full, which takes no byte.
    original = Path.mkdir

    def with_full_device(self: Path, *args: object, **keywords: object) -> None:
        original(self, *args, **keywords)  # type: ignore[arg-type]
        if self.name == ".step_00000002.tmp" and not (self / "__0_0.distcp").is_symlink():
            (self / "__0_0.distcp").symlink_to("/dev/full")

    monkeypatch.setattr(Path, "mkdir", with_full_device)
    with pytest.raises(StorageError, match="No space left"):
        store.save(2, module, optimizer)
    assert store.steps() == [1]
    assert store.load(module, optimizer)[0] == 1


def test_differences_are_dotted_and_complete() -> None:
    assert differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}, "d": 4}) == [
        ("a.c", 2, 3),
        ("d", "(not there)", 4),
    ]
    assert differences({"a": [1, 2]}, {"a": [1, 2]}) == []
