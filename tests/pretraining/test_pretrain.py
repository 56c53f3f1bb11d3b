from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from dinomill.errors import ConfigError, InputError
from dinomill.handles import DatasetHandle, ModelHandle
from dinomill.models import load
from dinomill.pretraining.config import PretrainingConfig
from dinomill.pretraining.pretrain import pretrain, pretraining_job
from dinomill.registration.recipe import recipe_facts
from dinomill.storage.hashing import hash_file


@pytest.fixture
def values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for name in ("MLFLOW_RUN_ID", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    return {
        "work": str(tmp_path / "work"),
        "output": str(tmp_path / "teacher"),
        "steps": 8,
        "batch_size": 16,
        "model": {
            "image_size": 8,
            "patch_size": 4,
            "in_channels": 1,
            "embed_dim": 32,
            "depth": 2,
            "num_heads": 2,
            "layerscale": 1.0,
        },
        "step": {"head": {"hidden_dim": 32, "bottleneck_dim": 16, "prototypes": 64}, "precision": "fp32"},
        "crops": {"global_size": 8, "local_size": 4, "local_crops": 2, "blur": [0, 0, 0]},
        "masking": {"min_patches": 1},
        "runtime": {"device": "cpu", "log_every": 2, "checkpoint_every": 2, "monitor": {"every": 0}},
    }


def config(values: dict[str, Any], **changes: Any) -> PretrainingConfig:
    return PretrainingConfig.parse(values | changes, where="a test")


def test_teacher_is_handed_on_and_a_second_run_does_not_train(
    values: dict[str, Any], digits_dataset: DatasetHandle, digits_labelled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = values["runtime"] | {"monitor": {"every": 4, "images": 64}}
    chosen = config(values, runtime=runtime)
    handle = pretrain(digits_dataset, str(digits_labelled), chosen)
    handle.save()
    assert ModelHandle.load(handle.folder) == handle
    assert handle.steps == 8
    assert handle.images_seen == 128
    assert handle.image_size == 8
    assert handle.mean == digits_dataset.mean
    assert handle.dataset_sha256 == digits_dataset.manifest_sha256
    assert handle.weights_sha256 == hash_file(handle.folder / "model.safetensors")
    model = load(handle.folder)
    assert handle.parameters == sum(p.numel() for p in model.parameters())
    assert handle.embed_dim == model.embed_dim == 32
    assert {"step", "images", "loss", "knn"} <= set(pq.read_table(handle.history).column_names)
    told = {fact.name: fact.value for fact in recipe_facts(handle)}
    assert told["objective"] == "pretraining" and "embed dim 32" in told["network"]
    assert "steps 8" in told["in short"] and "batch size 16" in told["in short"] and "learning rate" in told["schedule"]

    # DVC deletes outs before a stage starts. What is finished is taken from the work folder, without a process.
    for path in handle.folder.iterdir():
        path.unlink()
    monkeypatch.setattr(sys, "executable", "/no/process/is/to/be/started")
    assert pretrain(digits_dataset, str(digits_labelled), chosen) == handle
    assert handle.history.exists()


@pytest.mark.slow
def test_other_steps_or_data_have_a_work_folder_of_their_own(
    values: dict[str, Any], digits_dataset: DatasetHandle
) -> None:
    def work(dataset: DatasetHandle = digits_dataset, **changes: Any) -> Path:
        return pretraining_job(dataset, None, config(values, **changes)).work

    base = work()
    assert work(runtime={"log_every": 7, "checkpoint_every": 1}) == base
    assert work(output="elsewhere", name="another", launcher={"kind": "torchrun", "processes": 2}) == base
    others = {work(steps=9), work(seed=1), work(schedule={"learning_rate": 1e-3})}
    others.add(work(digits_dataset.model_copy(update={"manifest_sha256": "f" * 64})))
    assert len(others | {base}) == 5


def test_killed_with_its_launcher_it_continues(
    values: dict[str, Any], digits_dataset: DatasetHandle, tmp_path: Path
) -> None:
    # The stage's process is killed as by the system; the worker hears no signal, and must not train on unseen.
    values["steps"] = 4000
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps(values))
    script = tmp_path / "stage.py"
    script.write_text(
        "import json, sys\n"
        "from pathlib import Path\n"
        "from dinomill.handles import DatasetHandle\n"
        "from dinomill.pretraining.config import PretrainingConfig\n"
        "from dinomill.pretraining.pretrain import pretrain\n"
        "config = PretrainingConfig.parse(json.loads(Path(sys.argv[1]).read_text()), where='a test')\n"
        "pretrain(DatasetHandle.load(Path(sys.argv[2])), None, config)\n"
    )
    work = pretraining_job(digits_dataset, None, config(values)).work
    stage = subprocess.Popen([sys.executable, str(script), str(settings), str(digits_dataset.folder)])
    while not list(work.glob("checkpoints/step_*/meta.json")):
        assert stage.poll() is None
        time.sleep(0.05)
    stage.send_signal(signal.SIGKILL)
    stage.wait()
    deadline = time.monotonic() + 60
    failure = work / "failures" / "rank_0.json"
    while not failure.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert json.loads(failure.read_text())["kind"] == "Interrupted"
    steps = [int(path.parent.name[5:]) for path in work.glob("checkpoints/step_*/meta.json")]
    assert 0 < max(steps) < 4000

    # Started again, and told to stop properly, it goes on from there.
    stage = subprocess.Popen([sys.executable, str(script), str(settings), str(digits_dataset.folder)], stderr=-1)
    while not [path for path in work.glob("checkpoints/step_*/meta.json") if int(path.parent.name[5:]) > max(steps)]:
        assert stage.poll() is None
        time.sleep(0.05)
    stage.send_signal(signal.SIGTERM)
    _, errors = stage.communicate(timeout=120)
    assert b"continues after step" in errors
    assert b"Interrupted: The pretraining was stopped after step" in errors


def test_wrong_channels_and_missing_weights_are_said_before_anything_starts(
    values: dict[str, Any], digits_dataset: DatasetHandle, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"pretraining\.model\.in_channels"):
        pretrain(digits_dataset, None, config(values, model=values["model"] | {"in_channels": 3}))
    with pytest.raises(InputError, match=r"pretraining\.initial: There is no .*nothing"):
        pretrain(digits_dataset, None, config(values, initial=str(tmp_path / "nothing")))
    output = str(config(values).output)
    for place in (output, f"{output}/start"):
        with pytest.raises(ConfigError, match="lies in the folder that this stage writes"):
            pretrain(digits_dataset, None, config(values, initial=place))
    for name in ("it's", "a`b", "a//b"):
        with pytest.raises(ConfigError, match="becomes a tag in MLflow"):
            PretrainingConfig.parse(values | {"name": name}, where="parameters.yml", prefix="pretraining")
    assert PretrainingConfig.parse(values | {"name": "modèle ViT-S/16"}, where="parameters.yml").name
    with pytest.raises(ConfigError, match="batch_size"):
        pretrain(digits_dataset, None, config(values, batch_size=15, launcher={"kind": "torchrun", "processes": 2}))
    assert not (tmp_path / "teacher").exists()


def test_continuing_takes_everything_from_the_weights_and_keeps_them(
    values: dict[str, Any], digits_dataset: DatasetHandle, tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file

    from dinomill.models import read_config

    first = pretrain(digits_dataset, None, config(values, model=values["model"] | {"pooling": "cls+mean_patch"}))
    assert first.start is None
    # Another dataset of the same images: what they are normalised with stays the weights'.
    other = digits_dataset.model_copy(update={"mean": (0.9,), "std": (0.1,)})
    changed = config(values, model="from_weights", initial=str(first.folder), output=str(tmp_path / "adapted"))
    second = pretrain(other, None, changed)
    second.save()
    assert ModelHandle.load(second.folder) == second
    assert (second.initial, second.initial_sha256) == (str(first.folder), first.weights_sha256)
    assert (second.mean, second.std) == (first.mean, first.std) == (digits_dataset.mean, digits_dataset.std)
    assert read_config(second.folder)["model"] == read_config(first.folder)["model"]
    assert second.start == second.folder / "start"
    assert read_config(second.start) | {"origin": second.origin} == read_config(second.folder)
    assert (read_config(second.folder)["licence"], second.licence) == ("own", "own")
    assert second.origin == f"started from {first.folder.name} (trained from random weights)"
    assert read_config(second.start)["origin"] == f"{first.folder.name} (trained from random weights)"
    before, start, after = (load_file(f / "model.safetensors") for f in (first.folder, second.start, second.folder))
    assert all(torch.equal(before[name], start[name]) for name in before)
    assert not all(torch.equal(after[name], start[name]) for name in start)

    # The weights' content is part of the job, their address is not.
    moved = (tmp_path / "teacher").rename(tmp_path / "moved")
    again = config(values, model="from_weights", initial=str(moved))
    assert pretraining_job(other, None, again).identity()["initial_sha256"] == first.weights_sha256
    assert (pretraining_job(other, None, again).work / "start").is_dir()
    many = digits_dataset.model_copy(update={"channels": 5})
    with pytest.raises(ConfigError, match=r"see 1 channel, and .* has 5"):
        pretrain(many, None, again)
    with pytest.raises(ConfigError, match=r"pretraining\.model\.num_heads is 4, theirs is 2"):
        pretrain(other, None, config(values, model=values["model"] | {"num_heads": 4}, initial=str(moved)))
