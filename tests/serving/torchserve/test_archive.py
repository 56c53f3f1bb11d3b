from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from dinomill.errors import ConfigError, InputError
from dinomill.serving.predictor import Predictor
from dinomill.serving.torchserve.archive import BatchingConfig, build_archive
from dinomill.serving.torchserve.properties import ServerConfig
from dinomill.serving.torchserve.requirements import archive_requirements

# Loads an unpacked archive as a worker does, where none of the packages that only the factory needs can be imported.
_WORKER = """
import json, sys
for name in "mlflow kedro dvc great_expectations sklearn faiss ray pandas boto3 pyarrow ts".split():
    sys.modules[name] = None  # as if it were not installed
folder = sys.argv[1]
sys.path.insert(0, folder)
from handler import EmbeddingHandler
import dinomill
assert dinomill.__file__.startswith(folder), dinomill.__file__
class Context:
    model_yaml_config = {"handler": {"threads": 1}}
    system_properties = {"model_dir": folder, "gpu_id": None}
    def get_all_request_header(self, index): return {}
    def set_response_content_type(self, index, value): pass
    def set_response_status(self, **_): pass
handler = EmbeddingHandler()
handler.initialize(Context())
print(json.dumps([json.loads(one) for one in handler.handle([{"body": open(sys.argv[2], "rb").read()}], Context())]))
"""


def _build(backbone: Path, store: Path, **changes: object) -> Path:
    arguments = {
        "model": "mill",
        "version": "3",
        "batching": BatchingConfig(),
        "server": ServerConfig(threads=1),
    } | changes
    return build_archive(backbone, store, **arguments)  # type: ignore[arg-type]


def test_the_same_model_gives_the_same_bytes(backbone: Path, tmp_path: Path) -> None:
    first, second = _build(backbone, tmp_path / "a"), _build(backbone, tmp_path / "b")
    assert first.read_bytes() == second.read_bytes()
    other = _build(backbone, tmp_path / "c", batching=BatchingConfig(batch_size=4))
    assert other.read_bytes() != first.read_bytes()


def test_the_archive_is_whole_and_lean(backbone: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(_build(backbone, tmp_path)) as file:
        names = file.namelist()
        manifest = json.loads(file.read("MAR-INF/MANIFEST.json"))
        assert file.read("model.safetensors") == (backbone / "model.safetensors").read_bytes()
        settings = file.read("model-config.yaml").decode()
    assert manifest["model"]["modelName"] == "mill"
    assert manifest["model"]["modelVersion"] == "3"
    assert manifest["model"]["handler"] == "handler.py"
    assert "batchSize: 8" in settings
    assert '"max_megapixels": 40.0' in settings
    assert {"dinomill/serving/requests.py", "dinomill/serving/budget.py"} <= set(names)
    assert {"handler.py", "config.json", "dinomill/serving/predictor.py", "dinomill/errors.py"} <= set(names)
    areas = {name.split("/")[1] for name in names if name.startswith("dinomill/")}
    assert not areas & {"tracking", "curation", "training", "packaging", "execution"}
    assert not any("__pycache__" in name or "torchserve" in name for name in names)


def test_a_server_without_the_factory_can_use_it(backbone: Path, tmp_path: Path, photographs: list[bytes]) -> None:
    folder, image = tmp_path / "unpacked", tmp_path / "image.jpg"
    with zipfile.ZipFile(_build(backbone, tmp_path)) as file:
        file.extractall(folder)
    image.write_bytes(photographs[0])
    result = subprocess.run(
        [sys.executable, "-c", _WORKER, str(folder), str(image)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    served = json.loads(result.stdout)[0]["embedding"]
    assert np.allclose(served, Predictor(backbone)(photographs[:1])[0], atol=1e-5)


def test_requirements_are_few_and_pinned(backbone: Path, tmp_path: Path) -> None:
    lines = archive_requirements(_build(backbone, tmp_path))
    names = {line.split("==")[0].lower() for line in lines}
    assert {"torch", "numpy", "torchserve", "pydantic", "safetensors", "imagecodecs"} <= names
    assert not names & {"mlflow", "kedro", "dvc", "boto3", "pyarrow", "scikit-learn", "pandas", "ray"}
    assert all("==" in line and "+" not in line for line in lines)


def test_wrong_names_and_folders_are_refused(backbone: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be the name"):
        _build(backbone, tmp_path, model="my model")
    with pytest.raises(InputError, match="not an exported backbone"):
        _build(tmp_path / "nothing", tmp_path)
    assert not list(tmp_path.glob("*.mar"))
