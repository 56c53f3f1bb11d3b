"""What `dinomill orchestrate` writes, held against every field and type of Argo's and Kubernetes' own models."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from dinomill.commands.orchestrate import orchestrate
from dinomill.errors import ConfigError
from dinomill.execution.launcher_config import KubernetesConfig
from dinomill.orchestration.pods import argo, job
from dinomill.orchestration.tasks import Task, tasks_of
from dinomill.stages import DEFAULT_STAGES, STAGES
from dinomill.tracking.invocation import NAMED
from tests.commands.programs import BIN, run

SCHEMA = json.loads(Path(__file__).with_name("manifests.schema.json").read_text())
PODS = {"image": "registry.example.org/dinomill:1", "claim": "mill"}


def faults(manifest: dict[str, Any]) -> list[str]:
    schema = {"$ref": f"#/$defs/{SCHEMA['kinds'][manifest['kind']]['$ref'].removeprefix('#/$defs/')}", **SCHEMA}
    return [error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(manifest)]


@pytest.fixture
def mine(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with an environment of its own images."""
    (project / "conf/mine").mkdir()
    values = {"data": "data/mine", "work": "data/work/mine", "experiment": "mine", "model": "dinomill-mine"}
    (project / "conf/mine/globals.yml").write_text(yaml.safe_dump(values | {"pool": ["photos"], "seeds": None}))
    (project / "photos").mkdir()
    monkeypatch.chdir(project)
    return project


def made(root: Path, kind: str, **changes: Any) -> str:
    options: dict[str, Any] = {"env": "mine", "output": None, "through": "dvc", "schedule": None, "pods_as": PODS}
    return orchestrate(kind, root, **options | changes)


@pytest.mark.parametrize("schedule", [None, "0 3 * * *"])
@pytest.mark.parametrize("kind", ["argo", "kubernetes"])
def test_manifests_are_what_the_api_takes(mine: Path, kind: str, schedule: str | None) -> None:
    manifest = yaml.safe_load(made(mine, kind, schedule=schedule))
    assert not faults(manifest)
    expected = {("argo", False): "Workflow", ("argo", True): "CronWorkflow"}
    expected |= {("kubernetes", False): "Job", ("kubernetes", True): "CronJob"}
    assert manifest["kind"] == expected[kind, schedule is not None]
    assert "dinomill-mine" in json.dumps(manifest["metadata"])


def test_a_wrong_field_or_type_would_be_found(mine: Path) -> None:
    manifest = yaml.safe_load(made(mine, "argo"))
    spoils: list[Callable[[dict[str, Any]], object]] = [
        lambda spec: spec.update(entryPoint="stages"),
        lambda spec: spec["templates"][1]["container"].pop("image") and spec["templates"][1]["container"].update(img=1),
        lambda spec: spec["templates"][0]["dag"]["tasks"][0].pop("name"),
        lambda spec: spec["volumes"][0].pop("name"),
    ]
    for spoil in spoils:
        other = json.loads(json.dumps(manifest))
        spoil(other["spec"])
        assert faults(other)


def test_stages_wait_for_each_other_and_run_where_the_project_lies(mine: Path) -> None:
    spec = yaml.safe_load(made(mine, "argo"))["spec"]
    stages, *templates = spec["templates"]
    tasks = {task["name"]: task.get("dependencies", []) for task in stages["dag"]["tasks"]}
    assert list(tasks) == list(DEFAULT_STAGES)  # its images are no sample
    assert tasks["curation"] == [] and tasks["distillation"] == ["pretraining"] and tasks["reporting"] == ["packaging"]
    for template in templates:
        container = template["container"]
        assert container["command"] == ["dvc", "repro", f"conf/mine/dvc.yaml:{template['name']}"]
        assert container["workingDir"] == str(mine)
        assert ("nvidia.com/gpu" in container["resources"]["limits"]) == (
            template["name"] in ("pretraining", "distillation")
        )


def test_a_job_runs_its_stages_in_turn(mine: Path) -> None:
    pod = yaml.safe_load(made(mine, "kubernetes", through="kedro"))["spec"]["template"]["spec"]
    in_turn = [*pod["initContainers"], *pod["containers"]]
    assert [container["name"] for container in in_turn] == list(DEFAULT_STAGES)
    assert in_turn[0]["command"] == ["kedro", "run", "--env", "mine", "--pipelines", "curation"]


def test_all_stages_of_a_start_say_the_same_of_it(mine: Path) -> None:
    """Nothing told them what they have in common: in MLflow each stage was a start of its own."""
    for kind, schedule in (("argo", None), ("argo", "@daily"), ("kubernetes", None), ("kubernetes", "@daily")):
        manifest = yaml.safe_load(made(mine, kind, schedule=schedule))
        said = list(environments(manifest))
        assert len(said) == len(DEFAULT_STAGES) and all(one == said[0] for one in said)
        assert NAMED in said[0]
    fields = {name: one["fieldRef"]["fieldPath"] for name, one in said[0].items() if isinstance(one, dict)}
    assert fields == {
        "JOB_NAME": "metadata.labels['batch.kubernetes.io/job-name']",
        "JOB_UID": "metadata.labels['batch.kubernetes.io/controller-uid']",
    }
    # Kubernetes fills in what stands before it, in this order.
    assert list(said[0]) == [*fields, NAMED] and said[0][NAMED] == "$(JOB_NAME) $(JOB_UID)"


def environments(manifest: Any) -> Iterator[dict[str, Any]]:
    """The variables of every container of a manifest."""
    if isinstance(manifest, dict):
        if "command" in manifest:
            yield {one["name"]: one.get("value") or one["valueFrom"] for one in manifest["env"]}
        manifest = list(manifest.values())
    for one in manifest if isinstance(manifest, list) else ():
        yield from environments(one)


def test_the_configuration_says_the_rest_and_options_win(mine: Path) -> None:
    launcher = {"kind": "torchrun", "kubernetes": {"image": "r/old:1", "s3_secret": "bucket", "namespace": "team"}}
    launcher["kubernetes"] |= {"service_account": "trainer", "node_selector": {"gpu": "h100"}}  # type: ignore[operator]
    (mine / "conf/mine/parameters.yml").write_text(yaml.safe_dump({"pretraining": {"launcher": launcher}}))
    manifest = yaml.safe_load(made(mine, "argo"))
    assert not faults(manifest)
    spec = manifest["spec"]
    assert (manifest["metadata"]["namespace"], spec["serviceAccountName"]) == ("team", "trainer")
    container = spec["templates"][1]["container"]
    assert container["image"] == PODS["image"]
    # A secret is a file; no variable holds one.
    assert container["env"] == [
        {"name": "DINOMILL_INVOCATION", "value": "{{workflow.name}} {{workflow.uid}}"},
        {"name": "AWS_SHARED_CREDENTIALS_FILE", "value": "/var/run/dinomill/s3/credentials"},
    ]


def test_what_pods_could_not_run_is_refused(mine: Path) -> None:
    with pytest.raises(ConfigError, match="image and claim must be said"):
        made(mine, "argo", pods_as={})
    with pytest.raises(ConfigError, match="not valid"):
        made(mine, "argo", pods_as=PODS | {"namespace": "Not A Name"})
    elsewhere = KubernetesConfig.model_validate(PODS | {"mount": "/srv/elsewhere"})
    for make in (argo, job):
        with pytest.raises(ConfigError, match="would not see the project"):
            make([Task("curation", ("true",), ())], elsewhere, project=mine, env=None, schedule=None)
    (mine / "conf/mine/parameters.yml").write_text(
        yaml.safe_dump({"distillation": {"launcher": {"kind": "slurm"}}}), encoding="utf-8"
    )
    with pytest.raises(ConfigError, match=r"distillation\.launcher\.kind: slurm"):
        made(mine, "kubernetes")


def test_edges_follow_results_and_none_twice() -> None:
    stages = {
        "a": {"cmd": "kedro run --pipelines a", "deps": ["in"], "outs": ["data/a"]},
        "b": {"cmd": "kedro run --pipelines b", "deps": ["data/a"], "outs": [{"data/b": {"persist": True}}]},
        "c": {"cmd": "kedro run --pipelines c", "deps": ["data/a/part.txt", "data/b"], "outs": ["data/c"]},
        "d": {"cmd": "kedro run --pipelines d", "deps": ["data/ab"], "outs": ["data/d"]},
    }
    tasks = tasks_of(
        {"configuration": {"cmd": "dinomill dvc check"}} | stages, env=None, file="dvc.yaml", through="dvc"
    )
    assert [(task.name, task.after) for task in tasks] == [("a", ()), ("b", ("a",)), ("c", ("b",)), ("d", ())]
    assert tasks[0].command == ("dvc", "repro", "a")


def test_the_verb_writes_and_prints(project: Path) -> None:
    said = run(project, "dinomill", "orchestrate", "airflow", "--schedule", "@daily", "-o", "dags/mill.py")
    assert "airflow dags trigger dinomill" in said
    text = (project / "dags/mill.py").read_text(encoding="utf-8")
    compile(text, "mill.py", "exec")
    assert f'"{NAMED}": "{{{{ dag.dag_id }}}} {{{{ run_id }}}}"' in text
    assert 'schedule="@daily"' in text and text.count("BashOperator(") == len(STAGES)
    subprocess.run([BIN / "ruff", "check", "--isolated", "--select", "E9,F", project / "dags/mill.py"], check=True)
    printed = run(project, "dinomill", "orchestrate", "argo", "--image", "r/mill:1", "--claim", "mill")
    assert not faults(yaml.safe_load(printed))
    refused = run(project, "dinomill", "orchestrate", "argo", code=1)
    assert "--image" in refused and "Traceback" not in refused
