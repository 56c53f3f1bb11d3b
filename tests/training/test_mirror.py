"""Checkpoints in a bucket of a real S3 server: copied, pruned, fetched on a machine that has none."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from dinomill.errors import InputError, StorageError
from dinomill.storage import s3
from dinomill.training.checkpoint import Checkpoints
from dinomill.training.parallel import World
from tests.seaweedfs import ACCESS_KEY, SECRET, s3_server

HERE = World(0, 1, torch.device("cpu"))


def store(folder: Path, prefix: str) -> Checkpoints:
    return Checkpoints(folder, world=HERE, identity={"seed": 1}, keep=2, mirror=prefix)


def make() -> tuple[nn.Module, torch.optim.Optimizer]:
    module = nn.Linear(4, 4)
    return module, torch.optim.AdamW(module.parameters())


@pytest.fixture
def prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    (tmp_path / "s3").mkdir()
    with s3_server(tmp_path / "s3") as port:
        for name, value in {
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            monkeypatch.setenv(name, value)
        s3.client.cache_clear()
        s3.client().create_bucket(Bucket="bucket")
        yield "s3://bucket/runs/abc"
    s3.client.cache_clear()


def test_a_machine_without_checkpoints_goes_on_from_the_bucket(prefix: str, tmp_path: Path) -> None:
    module, optimizer = make()
    here = store(tmp_path / "here", prefix)
    for step in (1, 2, 3):
        with torch.no_grad():
            module.weight.fill_(float(step))
        here.save(step, module, optimizer, {"step": step}, best=("knn", 0.1 * step) if step == 1 else None, last=True)
    there = {entry.path for entry in s3.list_objects(prefix)}
    folders = {name.split("/")[0] for name in there}
    assert folders == {"step_00000001", "step_00000002", "step_00000003", "best.json"}

    elsewhere = store(tmp_path / "elsewhere", prefix)
    again, its_optimizer = make()
    assert elsewhere.load(again, its_optimizer) == (3, {"step": 3})
    assert torch.equal(again.weight, module.weight)
    # One that was cut off while it was copied does not count.
    s3.delete_object(f"{prefix}/step_00000003/meta.json")
    assert store(tmp_path / "third", prefix).load(*make())[0] == 2

    elsewhere.save(4, again, its_optimizer, last=True)
    kept = {entry.path.split("/")[0] for entry in s3.list_objects(prefix)}
    assert {"step_00000003", "step_00000004"} <= kept
    assert "step_00000002" not in kept


def test_damaged_checkpoints_are_fetched_and_a_damaged_copy_is_passed_over(
    prefix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """All that a disk holds is damaged: the newest whole one in the bucket is taken, and said to be."""
    module, optimizer = make()
    here = store(tmp_path / "here", prefix)
    for step in (1, 2, 3):
        with torch.no_grad():
            module.weight.fill_(float(step))
        here.save(step, module, optimizer, {"step": step}, best=("knn", 0.1) if step == 1 else None, last=True)
    for part in (tmp_path / "here").glob("step_*/*.safetensors"):
        part.write_bytes(part.read_bytes()[:-8])
    again = store(tmp_path / "here", prefix)
    other, its_optimizer = make()
    assert again.load(other, its_optimizer) == (3, {"step": 3})
    assert torch.equal(other.weight, module.weight)
    assert "is whole in" in caplog.text and f"fetching step_00000003 from {prefix}" in caplog.text
    assert again.newest() == 3
    # Of the best step too, at the export; with the bucket's own copies damaged, the one before.
    again.load_step(1, other)
    assert bool((other.weight == 1).all())
    (cut := tmp_path / "cut").write_bytes(b"cut off")
    for step in (1, 3):
        s3.upload_file(cut, f"{prefix}/step_0000000{step}/part_00000.safetensors")
    for part in (tmp_path / "here").glob("step_*/*.safetensors"):
        part.write_bytes(b"")
    assert store(tmp_path / "here", prefix).load(other, its_optimizer)[0] == 2
    s3.upload_file(cut, f"{prefix}/step_00000002/part_00000.safetensors")
    (tmp_path / "here" / "step_00000002" / "part_00000.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match="nor of those in s3://bucket/runs/abc"):
        store(tmp_path / "here", prefix).load(other, its_optimizer)


def test_a_server_that_is_away_is_said_and_training_goes_on(
    prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    module, optimizer = make()
    here = store(tmp_path / "here", prefix)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(s3, "_REQUEST_ATTEMPTS", 1)
    s3.client.cache_clear()
    here.save(1, module, optimizer, last=True)
    assert here.shelf.steps() == [1]
    assert "are not copied to s3://bucket/runs/abc now" in caplog.text
    shutil.rmtree(tmp_path / "here")
    with pytest.raises(StorageError):  # nothing is begun anew because a server is away
        store(tmp_path / "here", prefix).load(module, optimizer)
    monkeypatch.undo()
