"""A training as a Kubeflow PyTorchJob: the manifest, and what to do with it.

<work>/kubernetes/0001/pytorchjob.yaml   for `kubectl apply -f`
<work>/kubernetes/0001/…                 job.json, node.sh, failures/: see `node_script.Submission`

The pods mount one claim where it is mounted here, so that every path means the same. No secret stands in the manifest:
an AWS credentials file for `loader.shards` and `runtime.mirror` is a Secret that is mounted as a file, or the pods have
the rights of a service account.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml

from dinomill.errors import ConfigError, MachineError
from dinomill.execution.launcher_config import LauncherConfig
from dinomill.execution.node_script import CHECKPOINT_SECONDS, Submission, new_submission, node_script
from dinomill.storage.atomic import write_text

_S3_FOLDER = "/var/run/dinomill/s3"


def hand_over(
    module: str,
    job: Path,
    *,
    work: Path,
    config: LauncherConfig,
    environment: Mapping[str, str],
    places: Sequence[Path],
) -> NoReturn:
    """Write a manifest and stop with what to do: the training runs elsewhere, and the stage takes its result then.

    Raises:
        ConfigError: When the pods would not see a folder that they need.
        MachineError: Always: nothing more can be done from here.
    """
    mount = _mount(config)
    for place in (Path.cwd(), work, *places):
        if not place.absolute().is_relative_to(mount):
            raise ConfigError(
                "The pods would not see a folder that they need.",
                found=f"{place.absolute()}, and the claim {config.kubernetes.claim} is mounted at {mount}",
                expected="project, work folder, dataset and what the job names besides on the claim, mounted as here",
                action="set launcher.kubernetes.mount to the folder above them all, where the claim is mounted here",
            )
    submission = new_submission(job, work=work, kind="kubernetes")
    kubernetes = config.kubernetes
    node = node_script(
        module,
        submission,
        config=config,
        rendezvous=[],  # Kubeflow's operator tells torchrun, by PET_RDZV_ENDPOINT and its like
        cores=kubernetes.cpus_per_node,
        environment=environment,
        python=kubernetes.python,
        options=("--retryable",),
    )
    write_text(submission.node, node)
    path = submission.folder / "pytorchjob.yaml"
    write_text(path, yaml.safe_dump(manifest(submission, config), sort_keys=False))
    name = job_name(submission)
    raise MachineError(
        "The training is to run on Kubernetes, which this command does not wait for.",
        found=f"its manifest was written to {path}",
        action=f"kubectl apply -f {shlex.quote(str(path))}; look at it by `kubectl -n {kubernetes.namespace} get "
        f"pytorchjob {name}`; when it has succeeded, run this command again: it takes the result",
    )


def job_name(submission: Submission) -> str:
    """A name that Kubernetes takes: of the stage, the work and the submission."""
    folder = submission.folder
    stage, work = folder.parents[2].name, folder.parents[1].name
    stage = re.sub(r"[^a-z0-9]+", "-", stage.lower()).strip("-")[:20] or "training"
    work = re.sub(r"[^a-z0-9]+", "", work.lower())[:8]
    return f"dinomill-{stage}-{work}-{folder.name}"


def manifest(submission: Submission, config: LauncherConfig) -> dict[str, Any]:
    """The PyTorchJob."""
    kubernetes = config.kubernetes
    labels = {"app.kubernetes.io/name": "dinomill", "app.kubernetes.io/instance": job_name(submission)}
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {"name": job_name(submission), "namespace": kubernetes.namespace, "labels": labels},
        "spec": {
            "nprocPerNode": str(config.processes),
            "runPolicy": {"cleanPodPolicy": "Running", "backoffLimit": kubernetes.retries},
            # Also with as many as at most: the meeting is the same, and a pod that comes back is taken in.
            "elasticPolicy": {
                "rdzvBackend": "c10d",
                "minReplicas": config.fewest_nodes,
                "maxReplicas": config.nodes,
                "maxRestarts": config.restarts,
                "rdzvConf": [{"key": "last_call_timeout", "value": str(config.join_seconds)}],
            },
            "pytorchReplicaSpecs": {
                "Worker": {
                    "replicas": config.nodes,
                    # Of codes above 127 only: not of a mistake of the user's, which would be made again.
                    "restartPolicy": "ExitCode",
                    "template": {"metadata": {"labels": labels}, "spec": _pod(submission, config)},
                }
            },
        },
    }


def _pod(submission: Submission, config: LauncherConfig) -> dict[str, Any]:
    kubernetes = config.kubernetes
    resources = {"cpu": str(kubernetes.cpus_per_node), "memory": kubernetes.memory}
    if kubernetes.gpus_per_node:
        resources["nvidia.com/gpu"] = str(kubernetes.gpus_per_node)
    volumes: list[dict[str, Any]] = [
        {"name": "project", "persistentVolumeClaim": {"claimName": kubernetes.claim}},
        {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": kubernetes.shared_memory}},
    ]
    mounts: list[dict[str, Any]] = [
        {"name": "project", "mountPath": str(_mount(config))},
        {"name": "shared-memory", "mountPath": "/dev/shm"},
    ]
    container: dict[str, Any] = {
        "name": "pytorch",  # the name by which the operator finds it
        "image": kubernetes.image,
        "command": ["bash", str(submission.node)],
        "resources": {"requests": resources, "limits": dict(resources)},
        "volumeMounts": mounts,
    }
    if kubernetes.s3_secret is not None:
        items = [{"key": "credentials", "path": "credentials"}]
        volumes.append(
            {"name": "s3", "secret": {"secretName": kubernetes.s3_secret, "items": items, "defaultMode": 0o400}}
        )
        mounts.append({"name": "s3", "mountPath": _S3_FOLDER, "readOnly": True})
        container["env"] = [{"name": "AWS_SHARED_CREDENTIALS_FILE", "value": f"{_S3_FOLDER}/credentials"}]
    pod: dict[str, Any] = {
        # A pod that is to go has time to save.
        "terminationGracePeriodSeconds": CHECKPOINT_SECONDS + 60,
        "containers": [container],
        "volumes": volumes,
    }
    if kubernetes.node_selector:
        pod["nodeSelector"] = dict(kubernetes.node_selector)
    if kubernetes.tolerations:
        pod["tolerations"] = [{"key": key, "operator": "Exists"} for key in kubernetes.tolerations]
    if kubernetes.service_account is not None:
        pod["serviceAccountName"] = kubernetes.service_account
    return pod


def _mount(config: LauncherConfig) -> Path:
    return (config.kubernetes.mount or Path.cwd()).absolute()
