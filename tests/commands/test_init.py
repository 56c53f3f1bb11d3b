from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from skimage import data
from typer.testing import CliRunner

from dinomill.commands.app import app
from dinomill.commands.init import init
from dinomill.commands.init_wish import from_here, known_size
from dinomill.errors import ConfigError, DinomillError, InputError


def _write(folder: Path, count: int, side: int = 64, seed: int = 0) -> Path:
    """Places of a photograph."""
    folder.mkdir(parents=True, exist_ok=True)
    photograph, random = data.astronaut(), np.random.default_rng(seed)
    for number, (y, x) in enumerate(random.integers(0, 512 - side, size=(count, 2))):
        Image.fromarray(photograph[y : y + side, x : x + side]).save(folder / f"{number:04d}.png")
    return folder


@pytest.fixture
def here(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with images in it, as the working directory."""
    monkeypatch.chdir(project)
    _write(project / "images" / "pool", 40)
    _write(project / "images" / "seeds", 6, seed=1)
    for half, split in enumerate(("train", "test")):
        for number, name in enumerate(("cats", "dogs")):
            _write(project / "images" / "labelled" / split / name, 5, seed=2 + 2 * half + number)
    return project


def _init(**options: Any) -> int:
    return init("mine", **{"pool": ["images/pool"], "probe": False} | options)


def test_one_command_writes_a_whole_environment(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _init(seeds=["good=images/seeds"], labelled="images/labelled", hours=0.5) == 0
    said = capsys.readouterr().out
    folder = here / "conf" / "mine"
    written = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    stages = ("curation", "pretraining", "distillation", "evaluation", "reporting")
    assert written == {"globals.yml", "plan.json", *(f"{stage}/parameters.yml" for stage in stages)}
    values = yaml.safe_load((folder / "globals.yml").read_text())
    assert values["pool"] == ["images/pool"]
    assert values["seeds"] == {"good": "images/seeds"}
    assert json.loads((folder / "plan.json").read_text())["stages"]["pretraining"]["seconds"] > 0
    for part in (
        "40 usable",
        "64 pixels",
        "2 classes, 10 to learn from, 10 to score",
        "whole run",
        "too little to learn",
    ):
        assert part in " ".join(said.split()), part
    assert "make run ENV=mine" in said and "git add conf/mine" in said
    assert "guessed" in said
    assert "warning" not in said, "what it writes is what the checks ask for"
    assert f"{len(written) - 1} files with the reason beside each value, and plan.json" in said


def test_large_images_are_cut(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(data.astronaut()).save(here / "images" / "pool" / "scene.tif")
    for number in range(40):
        (here / "images" / "pool" / f"{number:04d}.png").unlink()
    assert _init(tiles=48) == 0
    said = capsys.readouterr().out
    assert "100 tiles of 48 × 48 pixels" in said
    values = yaml.safe_load((here / "conf" / "mine" / "globals.yml").read_text())
    assert values["pool"] == [{"path": "images/pool", "tiles": {"side": 48}}]
    from dinomill.commands.dvc_stages import EnvironmentStages
    from dinomill.layers import Layers

    curation = EnvironmentStages(Layers("mine"), Path()).stages()["curation"]
    assert "images/pool" in curation["deps"]
    assert {"conf/mine/globals.yml"} <= {
        name for one in curation["params"] for name, keys in one.items() if "pool" in keys
    }
    with pytest.raises(ConfigError, match="tiles"):
        _init(tiles=3)


def test_the_same_again_writes_nothing(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _init()
    before = {path: path.stat().st_mtime_ns for path in (here / "conf" / "mine").rglob("*.yml")}
    capsys.readouterr()
    assert _init() == 0
    assert "already so: nothing was written" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_other_options_show_the_difference_and_force_writes_it(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _init()
    file = here / "conf" / "mine" / "pretraining" / "parameters.yml"
    before = file.read_text()
    capsys.readouterr()
    assert _init(size="S") == 1
    said = capsys.readouterr().out
    assert "+    embed_dim: 384" in said
    assert "Nothing was written" in said
    assert "by hand" not in said
    assert file.read_text() == before
    assert _init(size="S", force=True) == 0
    assert "embed_dim: 384" in file.read_text()


def test_what_was_edited_by_hand_is_named(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _init()
    file = here / "conf" / "mine" / "pretraining" / "parameters.yml"
    file.write_text(file.read_text().replace("batch_size:", "batch_size: 4 #"))
    capsys.readouterr()
    assert _init() == 1
    assert "Edited by hand since, or not made by this command: conf/mine/pretraining/parameters.yml" in (
        capsys.readouterr().out
    )
    assert "batch_size: 4" in file.read_text()
    assert _init(force=True) == 0
    assert "replaced what was edited by hand: conf/mine/pretraining/parameters.yml" in capsys.readouterr().out
    assert "batch_size: 4 #" not in file.read_text()


def test_an_environment_of_another_making_is_not_overwritten(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (here / "conf" / "fashion" / "globals.yml").read_text()
    assert init("fashion", pool=["images/pool"], probe=False) == 1
    assert "not made by this command" in capsys.readouterr().out
    assert (here / "conf" / "fashion" / "globals.yml").read_text() == before


def _refused(options: dict[str, Any], name: str = "mine") -> DinomillError:
    with pytest.raises(DinomillError) as raised:
        init(name, **{"pool": ["images/pool"], "probe": False} | options)
    assert raised.value.action or raised.value.expected, "says what to do"
    assert "conf/base" not in str(raised.value), "the mistake is in the command, not in a file"
    return raised.value


def test_bad_input_is_one_screen_and_leaves_nothing(here: Path) -> None:
    (here / "images" / "empty").mkdir()
    _write(here / "images" / "one", 1)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"pool": ["images/pol"]}, "There is no images/pol"),
        ({"pool": ["images/empty"]}, "no usable image"),
        ({"pool": ["images/one"]}, "too few images"),
        ({"pool": ["images/pool", "images/pool"]}, "twice"),
        ({"pool": ["gs://bucket/a"]}, "no place that can be read"),
        ({"seeds": ["images/seeds"]}, "needs a name and a place"),
        ({"seeds": ["good=images/sedes"]}, "There is no images/sedes"),
        ({"seeds": ["good=images/empty"]}, "holds no file"),
        ({"seeds": ["a=images/seeds", "a=images/seeds"]}, "twice"),
        ({"labelled": "images/pool"}, "labelled split"),
        ({"labelled": "images/nowhere"}, "There is no images/nowhere"),
        ({"hours": 0}, "above 0"),
    ]
    for options, problem in cases:
        assert problem in str(_refused(options)), options
        assert len(str(_refused(options)).splitlines()) <= 6
    for name in ("base", "local", "paper", "a/b"):
        assert "cannot be the name" in str(_refused({}, name))
    assert not (here / "conf" / "mine").exists()


def test_labelled_images_without_a_test_split_are_refused(here: Path) -> None:
    import shutil

    shutil.rmtree(here / "images" / "labelled" / "test")
    error = _refused({"labelled": "images/labelled"})
    assert "images/labelled/test" in str(error)
    assert "test/<class>/<image>" in str(error.action)
    _write(here / "images" / "labelled" / "test" / "cats", 3)
    shutil.rmtree(here / "images" / "labelled" / "train" / "dogs")
    assert "one class" in str(_refused({"labelled": "images/labelled"}))


def test_sizes_have_names() -> None:
    assert known_size("s") == "S"
    assert known_size(None) is None
    with pytest.raises(ConfigError) as raised:
        known_size("XL")
    assert raised.value.expected == "tiny, S, B, L"


def test_paths_are_those_of_where_the_command_was_typed(tmp_path: Path) -> None:
    (tmp_path / "cats").mkdir()
    assert from_here("cats", tmp_path) == str(tmp_path / "cats")
    assert from_here("good=cats", tmp_path) == f"good={tmp_path / 'cats'}"
    for text in ("s3://bucket/a", "good=s3://bucket/a", "models:/a@champion", "nowhere"):
        assert from_here(text, tmp_path) == text


def test_the_verb_works_from_a_folder_of_the_project(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here / "images")
    result = CliRunner().invoke(app, ["init", "mine", "--pool", "pool", "--seeds", "good=seeds", "--no-probe"])
    assert result.exit_code == 0, result.output
    values = yaml.safe_load((here / "conf" / "mine" / "globals.yml").read_text())
    assert (values["pool"], values["seeds"]) == (["images/pool"], {"good": "images/seeds"})


def test_help_has_examples() -> None:
    said = CliRunner().invoke(app, ["init", "--help"]).output
    assert "dinomill init photos --pool /data/photos" in " ".join(said.split())


@pytest.mark.slow
def test_a_probe_measures_and_leaves_nothing(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every part is really run: scan, embedder, training of teacher and student, both networks."""
    assert _init(probe=True, hours=0.2) == 0
    said = capsys.readouterr().out
    assert "measured here" in said
    assert re.search(r"which takes about (one minute|\d+ minutes)", said)
    assert not list((here / "data" / "work").rglob("probe"))
    prediction = json.loads((here / "conf" / "mine" / "plan.json").read_text())
    assert prediction["measured"]
    assert prediction["stages"]["pretraining"]["memory_bytes"] > 2**28


def test_what_cannot_be_tried_says_so(here: Path) -> None:
    """A weights file that is none is refused by the room that reads weights, before anything is written."""
    (here / "weights.pth").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises((InputError, ConfigError)):
        _init(start="weights.pth")
    assert not (here / "conf" / "mine").exists()


def test_an_empty_place_is_not_the_whole_project(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = ["--pool", "images/pool"]
    for options, option in (
        (["--pool", ""], "--pool"),
        (["--pool", " "], "--pool"),
        ([*pool, "--seeds", "good="], "--seeds good"),
        ([*pool, "--labelled", ""], "--labelled"),
        ([*pool, "--from", ""], "--from"),
    ):
        result = CliRunner().invoke(app, ["init", "mine", *options, "--no-probe"])
        assert isinstance(result.exception, InputError), options
        assert f"{option} is empty" in str(result.exception)
        assert "unset variable" in str(result.exception)
    monkeypatch.chdir(here / "images")
    assert [from_here(text, here) for text in ("", " ", "good=", "good= ")] == ["", " ", "good=", "good= "]
    assert not (here / "conf" / "mine").exists()


def test_places_that_lie_in_one_another_are_refused(here: Path) -> None:
    for folder in ("data/01_raw/photos", "data/mine/photos", "data/work/mine/photos", "conf/photos"):
        _write(here / folder, 10)
    _write(here / "images" / "pool" / "part", 10)
    (here / "link").symlink_to(here / "images" / "pool")
    train = "images/labelled/train/cats"
    cases: list[tuple[dict[str, Any], str]] = [
        ({"pool": ["."]}, "the project's own folder"),
        ({"pool": [".."]}, "the project's own folder"),
        ({"pool": ["data"]}, "holds the project's results"),
        ({"seeds": ["good=data"]}, "holds the project's results"),
        ({"pool": ["data/mine/photos"]}, "would be deleted"),
        ({"seeds": ["good=data/work/mine/photos"]}, "would be deleted"),
        ({"pool": ["conf"]}, "part of the project"),
        ({"pool": ["images/pool", "images/pool/part"]}, "lies within --pool images/pool"),
        ({"pool": ["images/pool", "link"]}, "counted twice"),
        ({"seeds": ["good=images/pool"]}, "good is the pool"),
        ({"seeds": ["good=images"]}, "good holds the pool"),
        ({"seeds": ["a=images/seeds", "b=images/../images/seeds"]}, "same place"),
        ({"pool": [train], "labelled": "images/labelled"}, "lies within --labelled"),
        ({"pool": ["images/labelled"], "labelled": "images/labelled"}, "is --labelled"),
        ({"seeds": ["good=images/labelled"], "labelled": "images/labelled"}, "that are scored"),
        ({"seeds": ["good=images/labelled/test/cats"], "labelled": "images/labelled"}, "that are scored"),
    ]
    for options, problem in cases:
        assert problem in str(_refused(options)), options
    assert not (here / "conf" / "mine").exists()


def test_places_that_may_lie_in_one_another_are_said(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _init(pool=["images"], labelled="images/labelled", seeds=["good=images/seeds"]) == 0
    assert "curation takes them out" in " ".join(capsys.readouterr().out.split())
    assert _init(labelled="images/labelled", seeds=["good=images/labelled/train/cats"], force=True) == 0
    assert "they choose what is kept" in " ".join(capsys.readouterr().out.split())
    _write(here / "data" / "01_raw" / "photos", 10)
    assert _init(pool=["data/01_raw/photos"], force=True) == 0


@pytest.mark.parametrize("hours", [float("nan"), float("inf"), -1.0, 0.0, 1e-9, 1e12])
def test_hours_are_hours(here: Path, hours: float) -> None:
    assert "--hours" in str(_refused({"hours": hours}))


def test_names_that_no_file_can_hold_are_refused_and_all_others_read_back(here: Path) -> None:
    from dinomill.layers import Layers

    for name in ("dir ${globals:pool}", "two\nlines", "bell\x07", "not\udcffutf8"):
        _write(here / "images" / name, 10)
        for options in ({"pool": [f"images/{name}"]}, {"seeds": [f"good=images/{name}"]}):
            assert "cannot be written into a configuration file" in str(_refused(options)), name
    odd = [
        "a # b",
        "a: b",
        "it's",
        'say "x"',
        "- x",
        "{x}",
        "back\\slash",
        "$x",
        "größe",
        "%x",
        "null",
        "@a",
        "*b",
        "?",
    ]
    odd += [
        "1e3",
        "12",
        "1_000",
        "0x1f",
        "0o7",
        "yes",
        "2026-01-01",
        "1:30",
        "1.",
        ".5",
        "~",
        "nan",
        ".inf",
        "1e-3",
        "é\u00a0x",
    ]
    for name in odd:
        _write(here / "images" / "odd" / name, 10)
    assert _init(pool=[f"images/odd/{name}" for name in odd], seeds=["good=images/seeds"]) == 0
    assert Layers("mine", conf=here / "conf").globals["pool"] == [f"images/odd/{name}" for name in odd]


def test_numbers_are_names_too(here: Path) -> None:
    """An environment may be called 1e3, and a set of seeds 12: they stay text."""
    from dinomill.layers import Layers

    assert init("1e3", pool=["images/pool"], seeds=["12=images/seeds"], probe=False) == 0
    layers = Layers("1e3", conf=here / "conf")
    assert layers.globals["experiment"] == "1e3"
    assert layers.globals["seeds"] == {"12": "images/seeds"}
    assert layers.parameters["pretraining"]["work"] == "data/work/1e3/pretraining"


def test_what_was_typed_stays_in_its_comment(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["dinomill", "init", "mine", "--pool", "images/pool", "--from", "a\npool: x\x85"])
    assert _init() == 0
    text = (here / "conf" / "mine" / "globals.yml").read_text()
    assert "--from 'a\\npool: x\\x85'`" in text.splitlines()[0]
    assert yaml.safe_load(text)["pool"] == ["images/pool"]


def _texts(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_what_was_begun_is_finished_by_the_same_command(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = here / "conf" / "mine"
    assert _init() == 0
    whole = _texts(folder)
    # Killed before the prediction; after the first files; with a prediction of another environment.
    (folder / "plan.json").unlink()
    capsys.readouterr()
    assert _init() == 0
    assert "begun and not finished" in capsys.readouterr().out
    assert set(_texts(folder)) == set(whole)
    (folder / "plan.json").unlink()
    (folder / "distillation" / "parameters.yml").unlink()
    assert _init() == 0
    assert set(_texts(folder)) == set(whole)
    (folder / "plan.json").write_text("{}")
    assert _init() == 0
    assert "is already so" not in capsys.readouterr().out
    assert _init() == 0
    assert "is already so" in capsys.readouterr().out
    # What was edited is protected, with a prediction and without.
    (folder / "plan.json").unlink()
    (folder / "globals.yml").write_text("pool: mine\n")
    assert _init() == 1
    assert (folder / "globals.yml").read_text() == "pool: mine\n"


@pytest.mark.parametrize("at", range(8))
def test_a_run_that_is_killed_while_it_writes_leaves_all_or_nothing(
    here: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """Stopped before each of the files, as if the power failed: the clean-up does not run either."""
    from dinomill.storage import atomic

    folder = here / "conf" / "mine"
    (here / "conf" / "mine").mkdir()
    (here / "conf" / "mine" / "catalog.yml").write_text("mine: {type: MemoryDataset}\n")
    _init(force=True)
    before = _texts(folder)
    done = 0

    def stop(path: Path, text: str) -> None:
        nonlocal done
        done += 1
        if done > at:
            raise KeyboardInterrupt
        whole(path, text)

    whole = atomic.write_text
    with monkeypatch.context() as context:
        context.setattr("dinomill.planning.environment_files.write_text", stop)
        context.setattr("dinomill.planning.prediction.write_text", stop)
        context.setattr("dinomill.planning.environment_files.shutil.rmtree", lambda *_, **__: None)
        if at < len(before) - 1:  # the catalogue is not this command's
            with pytest.raises(KeyboardInterrupt):
                _init(size="S", force=True)
            assert _texts(folder) == before
        else:
            _init(size="S", force=True)
    assert _init(size="S", force=True) == 0
    assert "embed_dim: 384" in (folder / "pretraining" / "parameters.yml").read_text()
    assert (folder / "catalog.yml").is_file()
    assert not list((here / "conf").glob(".mine*"))


def test_between_the_two_renames_nothing_is_lost(here: Path) -> None:
    _init()
    before = _texts(here / "conf" / "mine")
    (here / "conf" / "mine").rename(here / "conf" / ".mine.77.old")
    assert _init() == 0
    assert _texts(here / "conf" / "mine") == before
    assert not list((here / "conf").glob(".mine*"))


def test_what_is_in_the_way_is_named(here: Path) -> None:
    import shutil

    folder = here / "conf" / "mine"
    for path in ("", "pretraining", "distillation"):
        if path:
            folder.mkdir(exist_ok=True)
        (folder / path).write_text("a file")
        assert "is in the way" in str(_refused({}))
        (folder / path).unlink()
    for path in ("globals.yml", "plan.json", "pretraining/parameters.yml"):
        (folder / path).mkdir(parents=True)
        assert "is in the way" in str(_refused({}))
        shutil.rmtree(folder)
    folder.symlink_to(here / "nowhere")
    assert "a link to nothing" in str(_refused({}))


def test_a_file_in_another_encoding_is_shown_and_protected(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _init()
    file = here / "conf" / "mine" / "pretraining" / "parameters.yml"
    file.write_bytes("# größe\n".encode("latin-1"))
    assert _init() == 1
    assert "-# gr\\xf6\\xdfe" in capsys.readouterr().out
    assert _init(force=True) == 0
    assert "batch_size" in file.read_text()


def test_a_damaged_prediction_does_not_remove_other_files(here: Path) -> None:
    _init()
    plan = here / "conf" / "mine" / "plan.json"
    document = json.loads(plan.read_text())
    document["files"]["../base/globals.yml"] = "0"
    plan.write_text(json.dumps(document))
    _init(force=True)
    assert (here / "conf" / "base" / "globals.yml").is_file()


def test_copies_are_counted_and_one_picture_is_no_pool(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import shutil

    one = here / "images" / "same"
    one.mkdir()
    for number in range(60):
        shutil.copyfile(here / "images" / "pool" / "0000.png", one / f"{number}.png")
    error = _refused({"pool": ["images/same"]})
    assert "one picture only" in str(error)
    assert "1 different picture among 60 usable of 60 files" in str(error)
    assert "one picture, which the others repeat" in capsys.readouterr().out
    assert _init(pool=["images/pool", "images/same"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "40 different pictures, the others repeat them" in said
    assert "epochs of 40 images" in said


def test_what_a_run_would_refuse_is_said_at_once(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The checks of `dinomill plan`: broken seeds, a truncated labelled image."""
    for path in (here / "images" / "seeds").iterdir():
        path.write_bytes(path.read_bytes()[:200])
    assert _init(seeds=["good=images/seeds"]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "Before anything runs: There is no usable image in images/seeds" in said
    assert "Put that right" in said
    assert "Next: make run" not in said
    broken = here / "images" / "labelled" / "test" / "cats" / "0001.png"
    broken.write_bytes(broken.read_bytes()[:200])
    assert _init(labelled="images/labelled", force=True) == 1
    assert "0001.png" in capsys.readouterr().out
    broken.unlink()
    assert _init(labelled="images/labelled", force=True) == 0


def test_weights_have_their_size(here: Path) -> None:
    assert "--size says nothing beside --from" in str(_refused({"start": "weights.pth", "size": "L"}))


def test_what_cannot_be_carried_over_is_named(here: Path) -> None:
    import os

    _init()
    before = _texts(here / "conf" / "mine")
    os.mkfifo(here / "conf" / "mine" / "pipe")
    with pytest.raises(InputError, match="pipe cannot be read"):
        _init(size="S", force=True)
    assert _texts(here / "conf" / "mine") == before


@pytest.mark.parametrize("name", ["list.parquet", "list.csv", "shard.tar", "picture.png"])
def test_damaged_sources_are_named(here: Path, name: str) -> None:
    (here / "images" / name).write_bytes(b"\x89PNG\xff\xfe\x00nothing of the kind")
    for options in ({"pool": [f"images/{name}"]}, {"seeds": [f"good=images/{name}"]}):
        assert f"images/{name}" in str(_refused(options))


def test_a_path_that_no_system_has_is_none(here: Path) -> None:
    long = "x" * 5000
    assert from_here(long, here) == long
    assert from_here(f"good={long}", here) == f"good={long}"
    assert "There is no xxx" in str(_refused({"pool": [long]}))


def test_a_base_that_cannot_be_read_is_named_before_the_trial(here: Path) -> None:
    for text in ("pretraining: [", "other: 1", "- a"):
        (here / "conf" / "base" / "pretraining" / "parameters.yml").write_text(text)
        with pytest.raises(ConfigError, match="conf/base/pretraining/parameters"):
            _init(probe=True)
    assert not (here / "conf" / "mine").exists()


def test_two_at_once_of_one_name_are_refused(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each removed what the other was writing."""
    from dinomill.commands import init as module

    caught: list[str] = []
    look = module._look

    def while_looking(*arguments: Any) -> Any:
        with pytest.raises(InputError, match="Another `dinomill init mine` is at work") as refused:
            init("mine", pool=["images/pool"], probe=False)
        caught.append(str(refused.value))
        monkeypatch.setattr(module, "_look", look)
        assert init("other", pool=["images/pool"], probe=False) == 0
        return look(*arguments)

    monkeypatch.setattr(module, "_look", while_looking)
    assert _init() == 0
    assert "wait for its end" in caught[0]
    assert _init() == 0  # nothing is held when it has ended
