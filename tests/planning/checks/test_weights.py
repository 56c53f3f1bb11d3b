from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from dinomill.models.weights import WEIGHTS_NAME
from dinomill.planning.checks import Problem, Request
from dinomill.planning.checks.weights import cannot_embed, starting
from dinomill.training.starting import StartingWeights
from tests.planning.checks.conftest import stopping

Ask = Callable[..., Request]
Found = Callable[..., list[Problem]]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (None, "vits14.pth"),
        (b"", "vits14.pth"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS"),
        (b"<!DOCTYPE html><html>Sign in</html>", "HTML"),
        (b"PK\x03\x04" + b"\0" * 500, "vits14.pth"),
    ],
)
def test_weights_that_cannot_be_opened(root: Path, found: Found, data: bytes | None, said: str) -> None:
    if data is not None:
        (root / "vits14.pth").write_bytes(data)
    (problem,) = stopping(found(pretraining={"initial": "vits14.pth"}))
    assert problem.key == "pretraining.initial"
    assert said in problem.problem + str(problem.found)


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ({"pretraining": {"initial": "broken", "model": "from_weights"}}, "initial"),
        ({"distillation": {"teacher": "broken"}}, "teacher"),
    ],
)
def test_weights_that_are_no_numbers(
    root: Path, backbone: Path, found: Found, section: dict[str, object], key: str
) -> None:
    shutil.copytree(backbone, root / "broken")
    tensors = load_file(root / "broken" / WEIGHTS_NAME)
    tensors["norm.weight"][0] = float("nan")
    save_file(tensors, root / "broken" / WEIGHTS_NAME)
    problems = stopping(found(**section))
    assert [problem.key.rsplit(".")[-1] for problem in problems if "norm.weight" in str(problem.found)] == [key]
    assert found(**section)  # it is not remembered as good


def test_a_shape_that_contradicts_the_weights(backbone: Path, found: Found) -> None:
    problems = stopping(found(pretraining={"initial": backbone.as_posix()}))
    assert "pretraining.model" in [problem.key for problem in problems]
    assert any("contradicts the weights" in problem.problem for problem in problems)


def test_weights_for_colour_take_grey_images_which_is_said(backbone: Path, found: Found) -> None:
    problems = found(pretraining={"initial": backbone.as_posix(), "model": "from_weights"})
    said = {problem.key: problem for problem in problems}["pretraining.initial"]
    assert said.warning
    assert "their grey is repeated into three channels" in said.problem
    assert "3 channels; the dataset has 1" in str(said.found)
    assert "pretraining.model.in_channels" not in {problem.key for problem in problems}


def test_weights_are_read_once(root: Path, backbone: Path, ask: Ask) -> None:
    request = ask(pretraining={"initial": backbone.as_posix(), "model": "from_weights"})
    first = starting(request)
    assert isinstance(first, StartingWeights)
    remembered = root / "data/work/checks/weights.json"
    before = remembered.stat().st_mtime_ns
    assert starting(request) == first
    assert remembered.stat().st_mtime_ns == before


def test_a_network_to_embed_with_that_is_none(root: Path, found: Found) -> None:
    (root / "mine.pth").write_bytes(b"<!DOCTYPE html><html>Sign in</html>")
    network = {"embedding": {"embedder": {"network": "mine.pth"}}}
    (problem,) = stopping(found(curation=network))
    assert problem.key == "curation.embedding.embedder.network"
    assert "HTML" in problem.problem + str(problem.found)


def test_a_backbone_to_embed_with(root: Path, backbone: Path, ask: Ask) -> None:
    request = ask(curation={"embedding": {"embedder": {"network": backbone.as_posix()}}})
    assert cannot_embed(request) is None
    assert (root / "data/work/checks/embedder.json").is_file()
    assert cannot_embed(request) is None
