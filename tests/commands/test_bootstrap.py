"""Curate, train a little, register, and curate again with what was registered: the real stages, on digits."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from dinomill import tracking
from dinomill.commands.bootstrap import _parameter_file, _registered, _with_network
from dinomill.curation.handles import EmbeddingsHandle
from dinomill.errors import ConfigError, InputError
from dinomill.handles import DatasetHandle, RegistrationHandle

BASE = Path(__file__).parents[2] / "conf/base/curation/parameters.yml"

# As little training as there can be, and a gate that lets it through.
TINY = {
    "curation": {
        "execution": {"executor": "inline"},
        "embedding": {"embedder": {"image_size": 32}},
        "balance": {"levels": [4]},
        "gate": {"docs": False},
    },
    "pretraining": {
        "steps": 4,
        "batch_size": 16,
        "model": {"embed_dim": 32, "depth": 1},
        "step": {"head": {"hidden_dim": 32, "bottleneck_dim": 16, "prototypes": 64}},
        "runtime": {"monitor": {"every": 0}},
    },
    "distillation": {
        "steps": 4,
        "batch_size": 16,
        "students": {"small": {"embed_dim": 32, "depth": 1}},
        "step": {"head": {"hidden_dim": 32, "bottleneck_dim": 16}},
        "runtime": {"monitor": {"every": 0}},
    },
    "evaluation": {"random": {"seeds": 1}, "bootstrap": 100, "shown_queries": 1, "shown_neighbours": 1},
    "registration": {"gate": {"min_gain_over_random": None, "max_drop_from_teacher": None}},
}


def _lay_out(root: Path) -> None:
    from skimage import data
    from sklearn.datasets import load_digits

    def put(path: str, pixels: np.ndarray) -> None:
        file = root / "data/01_raw/mine" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        Image.fromarray(pixels).resize((28, 28), Image.Resampling.BICUBIC).save(buffer, "PNG")
        file.write_bytes(buffer.getvalue())

    digits = load_digits()
    images = (digits.images * 15.9).astype(np.uint8)
    for number in range(160):
        put(f"pool/{number}.png", images[number])
        put(f"seeds/{number}.png", images[200 + number])
    for number in range(40):
        y, x = divmod(number, 8)
        put(f"pool/other_{number}.png", data.camera()[y * 64 : y * 64 + 64, x * 64 : x * 64 + 64])
    for number in range(400, 520):
        split = "train" if number % 3 else "test"
        put(f"labelled/{split}/{digits.target[number]}/{number}.png", images[number])


def _configure(root: Path) -> None:
    path = root / "conf/base/globals.yml"
    settings = yaml.safe_load(path.read_text())
    mine = "data/01_raw/mine"
    settings |= {"pool": [f"{mine}/pool"], "seeds": {"digits": f"{mine}/seeds"}, "labelled": f"{mine}/labelled"}
    path.write_text(yaml.safe_dump(settings))
    (root / "conf/local/parameters.yml").write_text(yaml.safe_dump(TINY))


def _run(root: Path, program: str, *arguments: str) -> str:
    command = [Path(sys.executable).with_name(program), *arguments]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_one_command_curates_trains_and_curates_again(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    _lay_out(project)
    _configure(project)
    _run(project, "dvc", "init", "--no-scm", "--quiet")
    said = _run(project, "dinomill", "bootstrap")

    monkeypatch.chdir(project)
    embeddings = EmbeddingsHandle.load(Path("data/04_feature/embeddings"))
    assert (embeddings.network, embeddings.dimension) == ("models:/dinomill-backbone/1", 64)  # class token and patches
    assert DatasetHandle.load(Path("data/05_model_input/curated")).embedder == "models:/dinomill-backbone/1"
    assert "efficientnet-lite0" in said and "stayed" in said
    parameters = yaml.safe_load(Path("conf/base/curation/parameters.yml").read_text())
    assert parameters["curation"]["embedding"]["embedder"]["network"] == "models:/dinomill-backbone/1"

    # By its alias, from the project's SQLite registry: the same version, so nothing is stale.
    again = _run(project, "dinomill", "bootstrap", "--model", "models:/dinomill-backbone@candidate")
    assert "network is now models:/dinomill-backbone/1" in again
    assert "Stage 'curation' didn't change, skipping" in again
    assert tracking.download("models:/dinomill-backbone@candidate").is_dir()


def test_only_the_networks_line_changes() -> None:
    text = BASE.read_text()
    changed = _with_network(text, "models:/mill/7", BASE)
    differing = [pair for pair in zip(text.splitlines(), changed.splitlines(), strict=True) if pair[0] != pair[1]]
    assert len(differing) == 1
    before, after = yaml.safe_load(text), yaml.safe_load(changed)
    assert after["curation"]["embedding"]["embedder"]["network"] == "models:/mill/7"
    before["curation"]["embedding"]["embedder"]["network"] = "models:/mill/7"
    assert before == after


def test_a_file_without_the_setting_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match="does not say which network") as caught:
        _with_network("curation:\n  embedding:\n    images_per_task: 4\n", "models:/mill/7", BASE)
    assert "models:/mill/7 by hand" in str(caught.value)


def test_the_environment_that_sets_the_network_is_the_one_that_is_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for env, text in (("base", BASE.read_text()), ("mine", "curation:\n  balance: {}\n")):
        path = Path("conf", env, "curation/parameters.yml")
        path.parent.mkdir(parents=True)
        path.write_text(text)
    # Not the base's, which other environments run on: a new file of its own.
    assert _parameter_file("mine") == Path("conf/mine/curation/parameters_embedder.yml")
    path.write_text("curation:\n  embedding:\n    embedder:\n      network: a.onnx\n")
    assert _parameter_file("mine") == path
    assert _parameter_file(None) == Path("conf/base/curation/parameters.yml")
    local = Path("conf/local/parameters.yml")  # is laid over both
    local.parent.mkdir()
    local.write_text("curation:\n  embedding:\n    embedder:\n      network: b.onnx\n")
    assert _parameter_file("mine") == _parameter_file(None) == local


def test_a_model_that_did_not_pass_its_gate_is_not_taken_by_itself(tmp_path: Path) -> None:
    handle = RegistrationHandle(
        folder=tmp_path,
        made_of="0" * 64,
        model="mill",
        version=3,
        aliases=("candidate",),
        run_id="",
        uri="models:/mill@candidate",
        weights_sha256="0" * 64,
        source=tmp_path,
        passed_gate=False,
        gate=("kNN 2.1 points above the random network; at least 5.0",),
    )
    with pytest.raises(InputError, match="did not pass its gate") as caught:
        _registered(handle)
    assert "2.1 points" in str(caught.value) and "--model models:/mill/3" in str(caught.value)
    assert _registered(handle.model_copy(update={"passed_gate": True})) == "models:/mill/3"
