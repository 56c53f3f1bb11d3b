"""Segmentation and depth as the stage measures them: sets on disk in, tables and pictures out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dinomill.errors import ConfigError, InputError
from dinomill.evaluation.config import EvaluationConfig
from dinomill.evaluation.evaluate import evaluate
from dinomill.evaluation.sets.base import read_set
from dinomill.evaluation.sets.config import Limits, SetConfig
from dinomill.evaluation.sets.depths import DepthSet
from dinomill.evaluation.sets.masks import MaskedSet
from dinomill.handles import EvaluationHandle, ModelHandle, StudentsHandle
from dinomill.sample.mosaics import lay_out_mosaics

LIMITS = Limits("train", "test", None, None)


@pytest.fixture(scope="module")
def mosaics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets") / "mosaics"
    return lay_out_mosaics(folder, train=12, test=8, side=32, classes=("grass", "coffee", "hubble"))


@pytest.fixture(scope="module")
def slopes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images as bright as they are near, in windows that are no squares; depth in millimetres."""
    root = tmp_path_factory.mktemp("sets") / "slopes"
    random = np.random.default_rng(0)
    for split, count in (("train", 10), ("test", 5)):
        for folder in ("images", "depth"):
            (root / folder / split).mkdir(parents=True)
        for number in range(count):
            near, far = random.uniform(0.5, 2), random.uniform(3, 6)
            depth = np.repeat(np.linspace(far, near, 32)[:, None], 40 if number % 2 else 32, axis=1)
            image = np.clip(255 - 40 * depth + random.normal(0, 3, depth.shape), 0, 255).astype(np.uint8)
            depth[random.random(depth.shape) < 0.2] = 0
            Image.fromarray(image).save(root / "images" / split / f"{number}.png")
            Image.fromarray((1000 * depth).astype(np.uint16)).save(root / "depth" / split / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def handle(
    tmp_path_factory: pytest.TempPathFactory,
    mosaics: Path,
    slopes: Path,
    teacher: ModelHandle,
    students: StudentsHandle,
) -> EvaluationHandle:
    place = tmp_path_factory.mktemp("dense")
    sets = {
        "mosaics": {"labelled": str(mosaics), "kind": "masks"},
        "slopes": {"labelled": str(slopes), "kind": "depth", "scale": 0.001},
    }
    config = EvaluationConfig.parse(
        {
            "output": place / "out",
            "work": place / "work",
            "random": {"seeds": 1},
            "bootstrap": 200,
            "sets": sets,
            "protocols": {
                "segmentation": {"pixels": 1_500, "l2": [1e-3, 1e-5], "iterations": 40, "shown": 2},
                "depth": {"pixels": 1_500, "steps": 60, "batch": 64, "rates": [0.03], "bins": 32, "shown": 2},
            },
        },
        where="the test",
    )
    return evaluate(None, teacher, students, config)


def test_masks_give_a_table_and_a_picture(handle: EvaluationHandle) -> None:
    table = handle.sets["mosaics"]
    assert [score.kind for score in table.scores] == ["pixels", "random", "teacher", "student"]
    assert [measure.name for measure in table.measures] == ["miou"]
    assert table.classes == ("grass", "coffee", "hubble")
    for score in table.scores:
        figure = score.scores["miou"]
        assert 0 < figure.low <= figure.value <= figure.high <= 1
        assert score.details["segmentation_l2"] in (1e-3, 1e-5)
        classes = [score.details[f"iou_{name}"] for name in table.classes]
        assert figure.value == pytest.approx(np.mean(classes))
    pixels = table.score("pixels")
    chance = table.measures[0].chance
    assert pixels is not None and chance is not None and pixels.value("miou") > chance + 0.2
    assert "teacher_over_pixels" in table.gains
    drawn = (handle.folder / "sets" / "mosaics" / "plots" / "segmentation.svg").read_text()
    assert drawn.count("<image") == 2 * 6 and "coffee" in drawn and "raw pixels" in drawn


def test_depth_gives_a_table_and_a_picture(handle: EvaluationHandle) -> None:
    table = handle.sets["slopes"]
    assert [m.name for m in table.measures] == ["depth_rmse", "depth_abs_rel", "depth_delta1", "depth_rmse_plain"]
    pixels = table.score("pixels")
    assert pixels is not None
    # Brightness is depth: raw pixels read it, by either head, better than the spread of the depths.
    assert pixels.value("depth_rmse_plain") < 0.5 and pixels.value("depth_rmse") < 0.8
    assert pixels.value("depth_delta1") > 0.6
    assert table.measures[0].show(pixels.value("depth_rmse")).endswith(" m")
    assert (handle.folder / "sets" / "slopes" / "plots" / "depth.svg").is_file()
    assert pq.read_table(handle.folder / "sets" / "slopes" / "images.parquet").num_rows == 5
    assert "slopes" in json.loads((handle.folder / "metrics.json").read_text())


def test_sets_of_places_pay_for_no_embeddings(handle: EvaluationHandle) -> None:
    work = handle.folder.parent / "work"
    assert list((work / "grids").iterdir()) and not (work / "features").exists()
    assert all("embed_dim" not in score.details for table in handle.sets.values() for score in table.scores)


def test_a_set_is_another_one_when_a_mask_changes(mosaics: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(mosaics, copy)
    first = _masks(copy)
    before = (first.query_files, first.sha256)  # files are hashed when somebody asks
    mask = next((copy / "masks" / "test").iterdir())
    ids = np.array(Image.open(mask))
    ids[:4] = 255
    Image.fromarray(ids).save(mask)
    second = _masks(copy)
    assert before[0] == second.query_files and before[1] != second.sha256
    assert first.pixels.sum() - second.pixels.sum() == 4 * 32


def test_ids_without_a_name_and_masks_without_a_class_are_refused(mosaics: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(mosaics, copy)
    (copy / "classes.txt").write_text("grass\ncoffee\n")
    with pytest.raises(InputError, match=r"holds the class id 2") as refusal:
        _masks(copy)
    assert "0 to 1, the 2 lines of" in str(refusal.value)
    (copy / "classes.txt").unlink()
    assert _masks(copy).classes == ("class 0", "class 1", "class 2")
    with pytest.raises(InputError, match="hold no pixel of a class"):
        _masks(copy, ignored=(0, 1, 2))
    for mask in (copy / "masks" / "train").iterdir():
        Image.fromarray(np.minimum(np.array(Image.open(mask)), 1)).save(mask)
    with pytest.raises(InputError, match=r"test/.*holds the class id 2") as refusal:
        _masks(copy)
    assert "the ids of the bank's masks" in str(refusal.value)


def test_depth_sets_know_what_counts(slopes: Path) -> None:
    config = SetConfig(labelled=str(slopes), kind="depth", scale=0.001, depths=(0.6, 4.0), crop=(0, 16, 0, 16))
    data = read_set(config, "slopes", LIMITS)
    assert isinstance(data, DepthSet)
    assert (data.within.least, data.within.most) == (0.6, 4.0)
    other = read_set(config.model_copy(update={"crop": None, "depths": (0.001, None)}), "slopes", LIMITS)
    assert isinstance(other, DepthSet) and 5 < other.within.most < 6.01
    assert other.sha256 != data.sha256
    with pytest.raises(InputError, match="holds whole numbers"):
        read_set(config.model_copy(update={"scale": None}), "slopes", LIMITS)


def test_a_folder_may_say_how_it_is_read(slopes: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(slopes, copy)
    (copy / "set.json").write_text('{"scale": 0.001, "unit": "metres"}')
    data = read_set(SetConfig(labelled=str(copy), kind="depth"), "slopes", LIMITS)
    assert isinstance(data, DepthSet) and data.scale == 0.001 and data.unit == "metres"
    own = read_set(SetConfig(labelled=str(copy), kind="depth", scale=0.01), "slopes", LIMITS)
    assert isinstance(own, DepthSet) and own.scale == 0.01 and own.unit == "metres"
    for text, message in (("{", "not valid JSON"), ('{"scales": 1}', "cannot be used"), ("[1]", "cannot be used")):
        (copy / "set.json").write_text(text)
        with pytest.raises(InputError, match=message):
            read_set(SetConfig(labelled=str(copy), kind="depth"), "slopes", LIMITS)
    (copy / "set.json").write_text('{"scale": -1}')
    with pytest.raises(ConfigError, match=r"set\.json"):
        read_set(SetConfig(labelled=str(copy), kind="depth"), "slopes", LIMITS)


def _masks(folder: Path, **changes: object) -> MaskedSet:
    data = read_set(SetConfig(labelled=str(folder), kind="masks", **changes), "mosaics", LIMITS)  # type: ignore[arg-type]
    assert isinstance(data, MaskedSet)
    return data
