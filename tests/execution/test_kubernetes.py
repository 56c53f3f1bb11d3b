"""The manifest is held against every field and type of Kubeflow's and Kubernetes' own models; no cluster was there."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic import ValidationError

from dinomill.errors import ConfigError, MachineError
from dinomill.execution.launch import launch
from dinomill.execution.launcher_config import LauncherConfig

SCHEMA = json.loads(Path(__file__).with_name("pytorchjob.schema.json").read_text())
SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD", "HF_TOKEN")


def config(**kubernetes: Any) -> LauncherConfig:
    values = {"image": "registry.example.org/dinomill:1", "claim": "mill", **kubernetes}
    return LauncherConfig.parse(
        {"kind": "kubernetes", "nodes": 4, "min_nodes": 2, "processes": 8, "kubernetes": values}, where="a test"
    )


def hand_over(work: Path, launcher: LauncherConfig, places: list[Path] | None = None) -> tuple[dict[str, Any], str]:
    """The manifest and what is said."""
    work.mkdir(parents=True, exist_ok=True)
    (work / "job.json").write_text("{}")
    with pytest.raises(MachineError, match="Kubernetes") as caught:
        launch(
            "dinomill.training.worker",
            work / "job.json",
            work=work,
            config=launcher,
            environment={"MLFLOW_RUN_ID": ""},
            s3=True,
            places=places or [],
        )
    path = sorted((work / "kubernetes").glob("*/pytorchjob.yaml"))[-1]
    return yaml.safe_load(path.read_text()), str(caught.value)


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "work" / "pretraining" / "0123456789abcdef"


def test_manifest_is_what_the_api_takes(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SECRETS:
        monkeypatch.setenv(name, "hush-hush")
    launcher = config(
        namespace="team",
        s3_secret="bucket",
        service_account="trainer",
        node_selector={"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"},
    )
    made, said = hand_over(work, launcher)
    jsonschema.Draft202012Validator(SCHEMA).validate(made)
    assert (made["apiVersion"], made["kind"]) == ("kubeflow.org/v1", "PyTorchJob")
    assert made["metadata"]["name"] == "dinomill-pretraining-01234567-0001"
    assert f"kubectl apply -f {work}/kubernetes/0001/pytorchjob.yaml" in said
    elastic = made["spec"]["elasticPolicy"]
    assert (elastic["minReplicas"], elastic["maxReplicas"], elastic["rdzvBackend"]) == (2, 4, "c10d")
    worker = made["spec"]["pytorchReplicaSpecs"]["Worker"]
    assert (worker["replicas"], worker["restartPolicy"]) == (4, "ExitCode")
    pod = worker["template"]["spec"]
    (container,) = pod["containers"]
    assert container["name"] == "pytorch"  # the operator looks for it
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "8"
    # Keys are a file out of a Secret; no variable holds or refers to a secret, and no file that was written does.
    assert container["env"] == [{"name": "AWS_SHARED_CREDENTIALS_FILE", "value": "/var/run/dinomill/s3/credentials"}]
    assert [volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume] == ["bucket"]
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}
    for path in work.rglob("*"):
        assert not path.is_file() or b"hush-hush" not in path.read_bytes()


def test_a_wrong_field_or_type_would_be_found(work: Path) -> None:
    made, _ = hand_over(work, config())
    validator = jsonschema.Draft202012Validator(SCHEMA)
    assert not list(validator.iter_errors(made))
    spoils: list[Callable[[dict[str, Any]], object]] = [
        lambda job: job["spec"]["elasticPolicy"].update(minreplicas=2),
        lambda job: job["spec"]["elasticPolicy"].update(minReplicas="2"),
        lambda job: job["spec"].pop("runPolicy"),
        lambda job: job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"].pop("containers"),
        lambda job: job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]["volumes"][0].pop("name"),
    ]
    for spoil in spoils:
        other = json.loads(json.dumps(made))
        spoil(other)
        assert list(validator.iter_errors(other))


def test_nodes_run_the_code_and_the_job_of_then(work: Path) -> None:
    made, _ = hand_over(work, config())
    (container,) = made["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]["containers"]
    assert container["command"] == ["bash", str(work / "kubernetes/0001/node.sh")]
    script = (work / "kubernetes/0001/node.sh").read_text()
    subprocess.run(["bash", "-n", str(work / "kubernetes/0001/node.sh")], check=True)
    assert f"export PYTHONPATH={work}/code/" in script
    assert "--retryable" in script
    assert "--rdzv-endpoint" not in script  # the operator says it, by PET_RDZV_ENDPOINT
    assert str(work / "kubernetes/0001/job.json") in script
    hand_over(work, config())
    assert (work / "kubernetes/0002/pytorchjob.yaml").is_file()


def test_what_pods_would_not_see_is_refused(work: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("curated")
    work.mkdir(parents=True)
    (work / "job.json").write_text("{}")
    with pytest.raises(ConfigError, match="would not see a folder") as caught:
        launch("w", work / "job.json", work=work, config=config(), environment={}, places=[elsewhere])
    assert str(elsewhere) in str(caught.value)


def test_image_and_claim_must_be_said() -> None:
    with pytest.raises(ValidationError, match=r"kubernetes\.image and kubernetes\.claim"):
        LauncherConfig.model_validate({"kind": "kubernetes"})
    with pytest.raises(ValidationError):
        LauncherConfig.model_validate({"kubernetes": {"memory": "much"}})
