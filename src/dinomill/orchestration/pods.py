"""The stages as pods: a workflow of Argo, or a plain Kubernetes job whose containers run one after the other.

The pods mount one claim where the project lies here, so that every path means the same. No secret stands in a manifest:
an AWS credentials file is a Secret that is mounted as a file, or the pods have the rights of a service account.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dinomill.errors import ConfigError
from dinomill.execution.launcher_config import KubernetesConfig
from dinomill.orchestration.tasks import TRAINING, Task
from dinomill.tracking.invocation import NAMED

_S3_FOLDER = "/var/run/dinomill/s3"
_GRACE = 240  # seconds in which a training saves before its pod goes
# What all stages of a start have in common, so that they have one parent run in MLflow. Argo fills in its own; of a
# plain job its pod's labels say it, which Kubernetes sets (since 1.27; before, each stage has a parent of its own).
_OF_A_WORKFLOW = ({"name": NAMED, "value": "{{workflow.name}} {{workflow.uid}}"},)
_LABEL = "metadata.labels['batch.kubernetes.io/{}']"
_OF_A_JOB = (
    {"name": "JOB_NAME", "valueFrom": {"fieldRef": {"fieldPath": _LABEL.format("job-name")}}},
    {"name": "JOB_UID", "valueFrom": {"fieldRef": {"fieldPath": _LABEL.format("controller-uid")}}},
    {"name": NAMED, "value": "$(JOB_NAME) $(JOB_UID)"},
)


def argo(
    tasks: Sequence[Task], config: KubernetesConfig, *, project: Path, env: str | None, schedule: str | None
) -> dict[str, Any]:
    """A Workflow, or a CronWorkflow where there is a schedule.

    Raises:
        ConfigError: When image or claim are not said, or the claim does not hold the project.
    """
    _check(config, project)
    spec: dict[str, Any] = {
        "entrypoint": "stages",
        # One run at a time: two would wait for each other's lock.
        "synchronization": {"mutexes": [{"name": job_name(env)}]},
        "volumes": _volumes(config),
        "templates": [
            {"name": "stages", "dag": {"tasks": [_dag_task(task) for task in tasks]}},
            *(_template(task, config, project) for task in tasks),
        ],
    }
    spec |= _of_the_pod(config)
    labels = _labels(env)
    if schedule is None:
        metadata = {"generateName": f"{job_name(env)}-", "namespace": config.namespace, "labels": labels}
        return {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "metadata": metadata, "spec": spec}
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "CronWorkflow",
        "metadata": {"name": job_name(env), "namespace": config.namespace, "labels": labels},
        "spec": {"schedules": [schedule], "concurrencyPolicy": "Forbid", "workflowSpec": spec},
    }


def job(
    tasks: Sequence[Task], config: KubernetesConfig, *, project: Path, env: str | None, schedule: str | None
) -> dict[str, Any]:
    """A Job, or a CronJob where there is a schedule; all stages but the last are init containers, which run in turn.

    Raises:
        ConfigError: When image or claim are not said, or the claim does not hold the project.
    """
    _check(config, project)
    containers = [{"name": task.name, **_container(task, config, project, _OF_A_JOB)} for task in tasks]
    pod: dict[str, Any] = {
        "restartPolicy": "OnFailure",  # the stage that ended badly, not those before it
        "terminationGracePeriodSeconds": _GRACE,
        "initContainers": containers[:-1],
        "containers": containers[-1:],
        "volumes": _volumes(config),
        **_of_the_pod(config),
    }
    labels = _labels(env)
    metadata = {"name": job_name(env), "namespace": config.namespace, "labels": labels}
    spec = {"backoffLimit": config.retries, "template": {"metadata": {"labels": labels}, "spec": pod}}
    if schedule is None:
        return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": metadata,
        "spec": {"schedule": schedule, "concurrencyPolicy": "Forbid", "jobTemplate": {"spec": spec}},
    }


def job_name(env: str | None) -> str:
    """A name that Kubernetes takes."""
    return "-".join(["dinomill", *([re.sub(r"[^a-z0-9]+", "-", env.lower()).strip("-")[:40]] if env else [])])


def refuse_handing_on(parameters: Mapping[str, Any]) -> None:
    """Refuse stages that would hand their training to another scheduler from within a pod.

    Raises:
        ConfigError: Naming them.
    """
    kinds = {stage: (parameters.get(stage) or {}).get("launcher", {}).get("kind") for stage in sorted(TRAINING)}
    wrong = [f"{stage}.launcher.kind: {kind}" for stage, kind in kinds.items() if kind in ("slurm", "kubernetes")]
    if wrong:
        raise ConfigError(
            "A stage that runs in a pod would hand its training to another scheduler, and stop.",
            found=", ".join(wrong),
            expected="inline or torchrun: the pod itself trains, with its own GPUs",
            action="make an environment with such a launcher for this; for trainings over several pods run the stage "
            "on a machine that has kubectl, with `launcher.kind: kubernetes`",
        )


def _check(config: KubernetesConfig, project: Path) -> None:
    missing = [name for name in ("image", "claim") if getattr(config, name) is None]
    if missing:
        raise ConfigError(
            f"The pods' {' and '.join(missing)} must be said.",
            expected="an image with the packages of requirements/, and a PersistentVolumeClaim that holds the project",
            action="give --image and --claim, or set pretraining.launcher.kubernetes.{image,claim}",
        )
    if config.mount is not None and not project.is_relative_to(config.mount):
        raise ConfigError(
            "The pods would not see the project.",
            found=f"{project}, and the claim {config.claim} is mounted at {config.mount}",
            expected="the project's folder on the claim, mounted where it is mounted here",
            action="set pretraining.launcher.kubernetes.mount to a folder above it",
        )


def _labels(env: str | None) -> dict[str, str]:
    return {"app.kubernetes.io/name": "dinomill", "app.kubernetes.io/instance": job_name(env)}


def _dag_task(task: Task) -> dict[str, Any]:
    return {"name": task.name, "template": task.name, **({"dependencies": list(task.after)} if task.after else {})}


def _template(task: Task, config: KubernetesConfig, project: Path) -> dict[str, Any]:
    return {
        "name": task.name,
        "container": _container(task, config, project, _OF_A_WORKFLOW),
        # What was told to stop or lost its machine goes on where it was; a mistake would be made again.
        "retryStrategy": {
            "limit": str(config.retries),
            "retryPolicy": "Always",
            "expression": "lastRetry.status == 'Error' || lastRetry.exitCode in ['137', '143']",
        },
    }


def _container(
    task: Task, config: KubernetesConfig, project: Path, start: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    resources = {"cpu": str(config.cpus_per_node), "memory": config.memory}
    if config.gpus_per_node and task.name in TRAINING:
        resources["nvidia.com/gpu"] = str(config.gpus_per_node)
    mounts: list[dict[str, Any]] = [
        {"name": "project", "mountPath": str(config.mount or project)},
        {"name": "shared-memory", "mountPath": "/dev/shm"},
    ]
    container: dict[str, Any] = {
        "image": config.image,
        "command": list(task.command),
        "workingDir": str(project),
        "resources": {"requests": resources, "limits": dict(resources)},
        "volumeMounts": mounts,
        "env": [dict(one) for one in start],
    }
    if config.s3_secret is not None:
        mounts.append({"name": "s3", "mountPath": _S3_FOLDER, "readOnly": True})
        container["env"].append({"name": "AWS_SHARED_CREDENTIALS_FILE", "value": f"{_S3_FOLDER}/credentials"})
    return container


def _volumes(config: KubernetesConfig) -> list[dict[str, Any]]:
    volumes: list[dict[str, Any]] = [
        {"name": "project", "persistentVolumeClaim": {"claimName": config.claim}},
        {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": config.shared_memory}},
    ]
    if config.s3_secret is not None:
        items = [{"key": "credentials", "path": "credentials"}]
        secret = {"secretName": config.s3_secret, "items": items, "defaultMode": 0o400}
        volumes.append({"name": "s3", "secret": secret})
    return volumes


def _of_the_pod(config: KubernetesConfig) -> dict[str, Any]:
    said: dict[str, Any] = {}
    if config.service_account is not None:
        said["serviceAccountName"] = config.service_account
    if config.node_selector:
        said["nodeSelector"] = dict(config.node_selector)
    if config.tolerations:
        said["tolerations"] = [{"key": key, "operator": "Exists"} for key in config.tolerations]
    return said
