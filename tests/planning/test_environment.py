from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from dinomill.errors import InputError
from dinomill.planning.environment import check_name, render
from dinomill.planning.environment_files import changes, write
from dinomill.planning.prediction import Prediction
from dinomill.planning.probe import values
from dinomill.planning.recipe import Plan, plan
from tests.planning.pools import COLOUR, LABELLED, POOLS, VITS14, machine, wish

BASE = Path(__file__).parents[2] / "conf" / "base"


def _plan(**changed: object) -> Plan:
    return plan(wish(**{"seeds": {"cats": "data/cats"}, "seed_images": 40} | LABELLED | changed), COLOUR, machine())


@pytest.mark.parametrize("name", POOLS)
def test_what_is_written_reads_back_as_what_was_chosen(name: str) -> None:
    made = plan(wish(**LABELLED), POOLS[name], machine())
    files = render(made, "dinomill init mine")
    read = {}
    for path, text in files.items():
        if path.name == "parameters.yml":
            read |= yaml.safe_load(text)
    assert read == values(made.choices)


def test_every_value_has_its_reason_and_no_line_is_too_long() -> None:
    for path, text in render(_plan(start=VITS14), "dinomill init mine").items():
        lines = text.splitlines()
        for number, line in enumerate(lines):
            assert len(line) <= 120 or line.startswith("#"), f"{path}: {line}"
            if ": " in line and not line.lstrip().startswith("#") and "    cats:" not in line:
                above = number and lines[number - 1].lstrip().startswith("#")
                if line.lstrip().startswith("- "):  # an item's reason is that of its list
                    above = any("# " in one for one in lines[max(number - 2, 0) : number])
                assert "# " in line or above or line.startswith("  cats:"), f"{path}: no reason for {line}"


def test_globals_say_what_differs_and_no_more() -> None:
    files = render(_plan(), "dinomill init mine --pool pool")
    text = files[Path("conf/mine/globals.yml")]
    assert yaml.safe_load(text) == {
        "pool": ["pool"],
        "seeds": {"cats": "data/cats"},
        "labelled": "labelled",
        "data": "data/mine",
        "work": "data/work/mine",
        "experiment": "mine",
        "model": "dinomill-mine",
    }
    assert text.startswith("# Made by `dinomill init mine --pool pool`")
    unlabelled = yaml.safe_load(render(plan(wish(), COLOUR, machine()), "")[Path("conf/mine/globals.yml")])
    assert unlabelled["seeds"] is None
    assert unlabelled["labelled"] is None


def test_a_disk_that_fills_meanwhile_changes_no_file() -> None:
    made = [
        render(plan(wish(**LABELLED), COLOUR, machine(disk_free_bytes=free)), "dinomill init mine")
        for free in (54 * 10**9, 53 * 10**9)
    ]
    assert made[0] == made[1]


def test_globals_say_how_images_are_cut() -> None:
    made = _plan(tiles={"side": 96}, pool=("scenes", "slides"))
    text = render(made, "dinomill init mine")[Path("conf/mine/globals.yml")]
    assert yaml.safe_load(text)["pool"] == [
        {"path": "scenes", "tiles": {"side": 96}},
        {"path": "slides", "tiles": {"side": 96}},
    ]
    assert "tiles of 96 pixels" in text


def test_kedro_sees_it_laid_over_the_base(tmp_path: Path) -> None:
    """The same layers as a run: the base's sizes do not shine through, its folders follow the environment's."""
    from dinomill.layers.merged import Layers

    shutil.copytree(BASE, tmp_path / "conf" / "base")
    made = _plan()
    write(render(made, "dinomill init mine"), made.prediction, tmp_path)
    layers = Layers("mine", conf=tmp_path / "conf")
    assert layers.globals["folders"]["curated"] == "data/mine/05_model_input/curated"
    assert layers.globals["seeds"] == {"cats": "data/cats"}
    pretraining = layers.parameters["pretraining"]
    assert pretraining["model"]["patch_size"] == 14
    assert pretraining["crops"]["aspect"] == [0.75, 1.3333]
    assert pretraining["work"] == "data/work/mine/pretraining"
    assert layers.parameters["registration"]["name"] == "dinomill-mine"


def test_weights_replace_the_bases_model_whole(tmp_path: Path) -> None:
    from dinomill.layers.merged import Layers

    shutil.copytree(BASE, tmp_path / "conf" / "base")
    made = _plan(start=VITS14)
    write(render(made, "dinomill init mine"), made.prediction, tmp_path)
    assert Layers("mine", conf=tmp_path / "conf").parameters["pretraining"]["model"] == "from_weights"


def test_only_differences_are_shown_and_edits_are_noticed(tmp_path: Path) -> None:
    made = _plan()
    files = render(made, "dinomill init mine")
    assert all(change.before is None for change in changes(files, tmp_path))
    write(files, made.prediction, tmp_path)
    assert changes(files, tmp_path) == []

    other = render(_plan(hours=3.0), "dinomill init mine")
    found = changes(other, tmp_path)
    assert {change.path.parent.name for change in found} >= {"pretraining", "distillation"}
    assert not any(change.by_hand for change in found)
    assert any("-  steps: " in change.diff and "+  steps: " in change.diff for change in found)

    edited = tmp_path / "conf" / "mine" / "pretraining" / "parameters.yml"
    edited.write_text(edited.read_text().replace("batch_size: 32", "batch_size: 16"))
    by_hand = [change.path.as_posix() for change in changes(files, tmp_path) if change.by_hand]
    assert by_hand == ["conf/mine/pretraining/parameters.yml"]
    write(files, made.prediction, tmp_path)
    assert "batch_size: 32" in edited.read_text()


def test_a_file_that_is_no_longer_needed_goes(tmp_path: Path) -> None:
    made = _plan()
    write(render(made, ""), made.prediction, tmp_path)
    evaluation = tmp_path / "conf" / "mine" / "evaluation" / "parameters.yml"
    assert evaluation.is_file()
    unlabelled = plan(wish(), COLOUR, machine())
    files = render(unlabelled, "")
    gone = [change for change in changes(files, tmp_path) if change.after is None]
    assert [change.path.as_posix() for change in gone] == ["conf/mine/evaluation/parameters.yml"]
    write(files, unlabelled.prediction, tmp_path)
    assert not evaluation.exists()


def test_the_prediction_is_kept_beside_it(tmp_path: Path) -> None:
    made = _plan()
    write(render(made, ""), made.prediction, tmp_path)
    read = Prediction.load(tmp_path / "conf" / "mine" / "plan.json")
    assert read.stages == made.prediction.stages
    assert read.seconds == pytest.approx(sum(stage.seconds for stage in made.prediction.stages.values()))
    assert list(read.stages)[:2] == ["curation", "pretraining"]
    (tmp_path / "conf" / "mine" / "plan.json").write_text("{}")
    with pytest.raises(InputError, match="holds no prediction"):
        Prediction.load(tmp_path / "conf" / "mine" / "plan.json")


@pytest.mark.parametrize(
    "name",
    ["base", "local", "paper", "work", "mlflow", "01_raw", "curation", "a/b", "..", "", "-x", "two words", "x" * 70],
)
def test_names_that_are_no_folders_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="cannot be the name"):
        check_name(name)


@pytest.mark.parametrize("name", ["photos", "solar_cells-2", "X"])
def test_other_names_are_fine(name: str) -> None:
    check_name(name)
