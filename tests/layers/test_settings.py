"""What globals.yml may say."""

from __future__ import annotations

from pathlib import Path

import pytest

from dinomill.errors import ConfigError
from dinomill.layers import Layers
from dinomill.layers.settings import _FOLDERS, _KNOWN


@pytest.fixture(autouse=True)
def root(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(project)
    return project


def say(name: str, text: str) -> None:
    path = Path("conf", name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


@pytest.mark.parametrize("layer", ["base", "mine", "local"])
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nosuchkey: 1\n", "Unknown key 'nosuchkey' in {}"),
        ("experimnet: mine\n", "did you mean 'experiment'?"),
        ("hello:\n", "Unknown key 'hello' in {}"),
        ("folders: {wrk: data/work}\n", "did you mean 'folders.work'?"),
    ],
)
def test_a_key_that_nobody_reads_is_refused(layer: str, text: str, said: str) -> None:
    name = "globals_folders.yml" if layer == "base" and "wrk" in text else "globals.yml"
    path = Path("conf", layer, name)
    say("mine/globals.yml", "data: data/mine\n")
    if layer == "base":
        base = path.read_text(encoding="utf-8")
        text = base.replace("  work: ", "  wrk: x\n  work: ") if "wrk" in text else text + base
    say(f"{layer}/{name}", text)
    with pytest.raises(ConfigError) as caught:
        _ = Layers("mine").globals
    assert said.format(path.as_posix()) in str(caught.value)
    assert path.as_posix() in str(caught.value)


def test_ones_own_key_is_known_when_a_file_refers_to_it() -> None:
    say("local/globals.yml", "side: 28\nunused: {place: 3}\n")
    say("local/parameters.yml", "pretraining: {crops: {global_size: '${globals:side}'}}\n")
    with pytest.raises(ConfigError, match="'unused'"):
        _ = Layers().globals
    say("local/distillation/parameters.yml", "distillation: {seed: '${globals:unused.place}'}\n")
    assert Layers().parameters["distillation"]["seed"] == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pool: 5\n", "pool: expected places"),
        ("pool: [5]\n", "pool: expected places"),
        ("pool: {a: b}\n", "pool: expected places"),
        ("seeds: [a]\n", "seeds: expected a name and a place each"),
        ("seeds: {a: [b]}\n", "seeds.a: expected a place"),
        ("labelled: [a]\n", "labelled: expected one folder"),
        ("data: [a]\n", "data: expected a text, such as data/mine (found ['a'])"),
        ("data: ''\n", "data: expected a text"),
        ("data:\n", "data: expected a text"),
        ("experiment: 3\n", "experiment: expected a text"),
        ("folders: data\n", "folders: expected a name and a place each"),
        ("folders: {work: 3}\n", "folders.work: expected a folder"),
    ],
)
def test_a_value_of_another_kind_is_refused(text: str, said: str) -> None:
    say("mine/globals.yml", "data: data/mine\n")
    say("local/globals.yml", text)
    with pytest.raises(ConfigError) as caught:
        _ = Layers("mine").globals
    assert said in str(caught.value)
    assert "The configuration in conf/local/globals.yml is not valid" in str(caught.value)


def test_what_is_left_out_is_fine() -> None:
    say("local/globals.yml", "pool: s3://bucket/images\nseeds:\nlabelled:\n")
    assert Layers().globals["seeds"] is None


def test_the_environments_own_name_can_be_referred_to_but_not_said() -> None:
    say("mine/globals.yml", "data: data/mine\n")
    assert Layers("mine").parameters["reporting"]["environment"] == "mine"
    assert Layers().parameters["reporting"]["environment"] is None
    say("local/globals.yml", "environment: other\n")
    with pytest.raises(ConfigError, match="Unknown key 'environment'"):
        _ = Layers("mine").globals


def test_every_key_of_the_base_is_known() -> None:
    """`folders.cache` was not: whoever read any globals read all files of all environments for a reference to it."""
    base = {key: value for file in Layers().read("globals") for key, value in file.values.items()}
    assert set(base) <= set(_KNOWN) and set(base["folders"]) <= set(_FOLDERS)
