from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import save_file

from dinomill.planning.checks import Problem, Request
from dinomill.planning.checks.needs import check_needs, not_weights
from tests.planning.checks.conftest import stopping

Ask = Callable[..., Request]
Found = Callable[..., list[Problem]]

TWO = {"kind": "torchrun", "processes": 2}
NETWORK = {"embedding": {"embedder": {"network": "mine.onnx"}}}


def test_the_projects_own_settings_need_nothing_more(ask: Ask) -> None:
    assert list(check_needs(ask())) == []


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"curation": NETWORK}, "curation.embedding.embedder.network"),
        ({"pretraining": {"launcher": {"kind": "torchrun", "processes": 3}}}, "pretraining.batch_size"),
        (
            {
                "pretraining": {
                    "launcher": {"kind": "torchrun", "processes": 2},
                    "runtime": {"parallel": {"kind": "none"}},
                }
            },
            "pretraining.runtime.parallel.kind",
        ),
        ({"packaging": {"name": "my model"}}, "packaging.name"),
        ({"registration": {"name": "ein Modell"}}, "registration.name"),
        ({"packaging": {"server": {"java_home": "nowhere"}}}, "packaging.server.java_home"),
        ({"distillation": {"runtime": {"device": "cuda"}}}, "distillation.runtime.device"),
    ],
)
def test_what_is_not_there_is_refused(ask: Ask, changes: dict[str, Any], key: str) -> None:
    if key.endswith("device"):
        import torch

        if torch.cuda.is_available():
            pytest.skip("there is a GPU")
    assert [problem.key for problem in check_needs(ask(**changes))] == [key]


@pytest.mark.skipif(shutil.which("sbatch") is not None, reason="SLURM is here")
def test_slurm_where_it_is_not(ask: Ask) -> None:
    request = ask(curation={"execution": {"executor": "slurm"}}, distillation={"launcher": {"kind": "slurm"}})
    assert [problem.key for problem in check_needs(request)] == [
        "curation.execution.executor",
        "distillation.launcher.kind",
    ]


def test_results_of_stages_that_do_not_run(ask: Ask) -> None:
    problems = list(check_needs(ask(("evaluation", "registration"))))
    assert [problem.key for problem in problems] == ["folders.teacher", "folders.students", "folders.curated"]
    assert "pretraining, which evaluation and registration read." in problems[0].problem


def test_a_wrong_value_of_a_later_stage_is_said_with_the_others(found: Found) -> None:
    problems = stopping(found(packaging={"name": "a b"}, evaluation={"knn": {"ks": [0]}}))
    assert [problem.key for problem in problems] == ["", "packaging.name"]
    assert "conf/base/evaluation/parameters.yml" in problems[0].problem
    assert "evaluation.knn.ks: every k must be at least 1" in problems[0].problem


def test_files_that_are_no_weights(tmp_path: Path) -> None:
    import numpy as np

    whole = tmp_path / "whole.safetensors"
    save_file({"a": np.zeros((4, 4), np.float32)}, whole)
    assert not_weights(whole) is None
    (tmp_path / "cut.safetensors").write_bytes(whole.read_bytes()[:-8])
    (tmp_path / "header.safetensors").write_bytes(b"{}")
    (tmp_path / "lfs.pth").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    (tmp_path / "page.pth").write_bytes(b"\n<!DOCTYPE html><html>Sign in</html>")
    (tmp_path / "empty.pth").write_bytes(b"")
    said = {path.name: not_weights(path) for path in sorted(tmp_path.iterdir())}
    assert "announces" in str(said["cut.safetensors"])
    assert "without the header" in str(said["header.safetensors"])
    assert "Git LFS" in str(said["lfs.pth"])
    assert "HTML page" in str(said["page.pth"])
    assert said["empty.pth"] == "0 bytes"
