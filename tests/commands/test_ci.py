"""The workflow that answers a pull request: what it runs exists, and says what differs."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import yaml

from tests.commands.programs import run
from tests.commands.test_experiments import commit
from tests.conftest import PROJECT

WORKFLOW = PROJECT / ".github/workflows/results.yml"


def test_the_workflow_runs_what_there_is_and_gives_secrets_to_nobody_else() -> None:
    text = WORKFLOW.read_text(encoding="utf-8")
    read = yaml.safe_load(text)
    (job,) = read["jobs"].values()
    assert "head.repo.full_name == github.repository" in job["if"]
    assert read["permissions"] == {"contents": "read", "pull-requests": "write"}
    commands = [step["run"] for step in job["steps"] if "run" in step]
    for script in re.findall(r"\.ci/\w+", "\n".join(commands)):
        assert os.access(PROJECT / script, os.X_OK), script
    # What a pull request says (its branch, its title) must not become a part of a command.
    assert not [command for command in commands if "${{" in command]
    with_secrets = [step["name"] for step in job["steps"] if "secrets." in json.dumps(step)]
    assert with_secrets == ["Pull"]
    stages = yaml.safe_load((PROJECT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    assert set(re.findall(r"dvc repro (\w+)", text)) <= set(stages)


@pytest.mark.parametrize("workflow", sorted(WORKFLOW.parent.glob("*.yml")), ids=lambda path: path.stem)
def test_workflows_are_what_github_reads(workflow: Path) -> None:
    """By the schema that the checker brings; every script and verb that they name is there."""
    said = run(PROJECT, "check-jsonschema", "--builtin-schema", "vendor.github-workflows", str(workflow))
    assert "ok" in said
    jobs = yaml.safe_load(workflow.read_text(encoding="utf-8"))["jobs"].values()
    commands = "\n".join(step.get("run", "") for job in jobs for step in job["steps"])
    for script in re.findall(r"\.ci/\w+", commands):
        assert os.access(PROJECT / script, os.X_OK), script
    verbs = re.findall(r"^(\w[\w-]*):.*##", (PROJECT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(re.findall(r"make ([\w-]+)", commands)) <= set(verbs)


def test_its_commands_pull_compare_and_go_on_where_something_is_missing(tmp_path: Path) -> None:
    project = tmp_path / "project"
    shutil.copytree(PROJECT / ".ci", project / ".ci")
    document = {
        "stages": {
            "make": {
                "cmd": "cp params.yaml metrics.json && echo 1 > out",
                "deps": ["in"],
                "params": ["steps"],
                "outs": ["out"],
                "metrics": [{"metrics.json": {"cache": False}}],
            }
        }
    }
    (project / "dvc.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    (project / "in").write_text("1", encoding="utf-8")
    (project / "params.yaml").write_text('{"steps": 8}', encoding="utf-8")
    run(project, "git", "init", "--quiet")
    run(project, "dvc", "init", "--quiet")
    run(project, "dvc", "repro", "--quiet")
    commit(project)
    (project / "out").unlink()
    shutil.rmtree(project / ".dvc/cache")
    assert "missing is made anew" in run(project, ".ci/pull")  # there is no remote at all
    run(project, "dvc", "repro", "--quiet")
    same = run(project, ".ci/compare", "HEAD")
    assert same.count("Nothing differs.") == 2
    (project / "params.yaml").write_text('{"steps": 16}', encoding="utf-8")
    run(project, "dvc", "repro", "--quiet")
    shown = run(project, ".ci/compare", "HEAD")
    figures, settings = shown.split("#### Settings")
    assert re.search(r"\| metrics.json +\| steps +\| 8 +\| 16 +\| 8 +\|", figures)
    assert re.search(r"\| params.yaml +\| steps +\| 8 +\| 16 +\|", settings)
