"""Checkpoints in a bucket of a real S3 server: copied, pruned, fetched on a machine that has none."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from dinomill.errors import StorageError
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
        s3._client.cache_clear()
        s3._client().create_bucket(Bucket="bucket")
        yield "s3://bucket/runs/abc"
    s3._client.cache_clear()


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


def test_a_server_that_is_away_is_said_and_training_goes_on(
    prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    module, optimizer = make()
    here = store(tmp_path / "here", prefix)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(s3, "_REQUEST_ATTEMPTS", 1)
    s3._client.cache_clear()
    here.save(1, module, optimizer, last=True)
    assert here.shelf.steps() == [1]
    assert "are not copied to s3://bucket/runs/abc now" in caplog.text
    shutil.rmtree(tmp_path / "here")
    with pytest.raises(StorageError):  # nothing is begun anew because a server is away
        store(tmp_path / "here", prefix).load(module, optimizer)
    monkeypatch.undo()
