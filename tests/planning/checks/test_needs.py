from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dinomill.features.probe import PROBE, Probe
from dinomill.planning.checks import Problem, Request
from dinomill.planning.checks.needs import check_needs
from tests.planning.checks.conftest import stopping

Ask = Callable[..., Request]
Found = Callable[..., list[Problem]]

TWO = {"kind": "torchrun", "processes": 2}
NETWORK = {"embedding": {"embedder": {"network": "mine.onnx"}}}


def test_the_projects_own_settings_need_nothing_more(ask: Ask) -> None:
    assert list(check_needs(ask())) == []


def test_a_probe_that_is_there_or_will_be_is_taken(ask: Ask, root: Path) -> None:
    Probe(np.ones((2, 5), np.float32), np.zeros(2, np.float32), ("a", "b")).save(root / PROBE)
    later = ask().folders["evaluation"] / "probes" / "student.safetensors"
    for probe in (PROBE, str(later)):
        assert list(check_needs(ask(packaging={"probe": probe}))) == []


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
        ({"packaging": {"probe": "nowhere.safetensors"}}, "packaging.probe"),
        ({"packaging": {"probe": "raw/pool/0000.png"}}, "packaging.probe"),
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


def test_a_batch_suits_every_number_of_nodes_that_may_go_on(ask: Ask) -> None:
    launcher = {"kind": "torchrun", "nodes": 3, "min_nodes": 1, "rendezvous": "10.0.0.1:29500"}
    (problem,) = check_needs(ask(pretraining={"launcher": launcher, "batch_size": 16}))
    assert problem.key == "pretraining.batch_size"
    assert "16 images for 3 processes" in str(problem.found)
    assert "set it to 12" in str(problem.action)  # a multiple of 1, 2 and 3
    assert list(check_needs(ask(pretraining={"launcher": launcher, "batch_size": 12}))) == []


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
    problems = stopping(found(packaging={"name": "a b"}, evaluation={"protocols": {"knn": {"ks": [0]}}}))
    assert [problem.key for problem in problems] == ["", "packaging.name"]
    assert "conf/base/evaluation/parameters.yml" in problems[0].problem
    assert "evaluation.protocols.knn.ks: every k must be at least 1" in problems[0].problem


def test_a_distillation_of_another_teacher_needs_no_pretraining(ask: Ask) -> None:
    alone = ("distillation",)
    assert "folders.teacher" in [problem.key for problem in check_needs(ask(alone))]
    other = {"teacher": "efficientnet-lite0", "teacher_size": 64}
    assert "folders.teacher" not in [problem.key for problem in check_needs(ask(alone, distillation=other))]
    missing = list(check_needs(ask(alone, distillation={"teacher": "nowhere.pth"})))
    assert "distillation.teacher" in [problem.key for problem in missing]
    assert any("There is no nowhere.pth" in problem.problem for problem in missing)
