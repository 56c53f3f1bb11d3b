"""What the parent run of a start keeps, in a real store."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.artifacts import load_text

from dinomill import tracking
from dinomill.started import name_of_run, started


def test_a_start_keeps_all_that_it_takes_to_do_the_same_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "false")
    (tmp_path / "requirements").mkdir()
    (tmp_path / "requirements/lock.txt").write_text("torch==2.11\n")
    (tmp_path / "dvc.lock").write_text("schema: '2.0'\n")
    store = f"sqlite:///{tmp_path}/mlflow.db"
    parameters = {"pretraining": {"steps": 320, "seed": 7}, "tracking": {"password": "hunter2", "uri": "x"}}
    with (
        started(["pretraining", "distillation"], {"pipeline_names": ["pretraining"]}, None, parameters),
        tracking.open_run("pretraining", tracking_uri=store, experiment="e") as run,
    ):
        pass
    client = MlflowClient(store)
    parent = client.get_run(str(run.parent))
    assert (parent.info.run_name or "").startswith("kedro run pretraining")
    assert parent.info.status == "FINISHED"
    tags = parent.data.tags
    assert tags["environment"] == "base"
    assert "CPU" in tags["hardware"] or "core" in tags["hardware"]
    assert tags["python"].startswith("3.") and tags["torch"]
    for name, text in (("lock_sha256", "torch==2.11\n"), ("dvc_lock_sha256", "schema: '2.0'\n")):
        assert tags[name] == sha256(text.encode()).hexdigest()
    kept = {
        one.path: load_text(f"{parent.info.artifact_uri}/{one.path}") for one in client.list_artifacts(str(run.parent))
    }
    assert "steps: 320" in kept["configuration.yml"] and "seed: 7" in kept["configuration.yml"]
    assert "hunter2" not in kept["configuration.yml"]
    assert "torch==" in kept["packages.txt"]


@pytest.mark.parametrize(
    ("stage", "parameters", "name"),
    [
        ("curation", {"embedding": {"embedder": {"network": "efficientnet-lite0"}}}, "curation · efficientnet-lite0"),
        ("curation", {"embedding": {"embedder": {"network": "/a/b/vits14.pth"}}}, "curation · vits14.pth"),
        ("curation", {"embedding": {"embedder": {"network": "models:/m@champion"}}}, "curation · models:/m@champion"),
        ("curation", {}, "curation"),
        (
            "pretraining",
            {"model": {"embed_dim": 128, "depth": 3, "patch_size": 4}, "steps": 1320, "seed": 0},
            "pretraining · ViT 128×3/4, 1,320 steps, seed 0",
        ),
        (
            "distillation",
            {"students": {"small": {}, "tiny": {}}, "steps": 5, "seed": 1},
            "distillation · small, tiny, 5 steps, seed 1",
        ),
        ("evaluation", {"measured": ["knn", "linear"]}, "evaluation · knn, linear"),
        ("reporting", {}, "reporting"),
    ],
)
def test_a_stage_is_called_by_what_it_is(stage: str, parameters: dict[str, object], name: str) -> None:
    assert name_of_run(stage, parameters) == name
