from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dinomill.errors import ConfigError
from dinomill.layers import Layers

GLOBALS = """\
pool: [data/raw]
seeds: {sample: data/seeds}
data: data
folders:
  sample: raw/sample
  scan: ${data}/scan
  work: ${data}/work
"""


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    say("base/globals.yml", GLOBALS)
    say(
        "base/pretraining/parameters.yml",
        "pretraining:\n  output: ${globals:folders.scan}\n  model: {depth: 6, side: 28}\n",
    )
    say("local/.gitkeep", "")
    return tmp_path / "conf"


def say(name: str, text: str) -> None:
    path = Path("conf", name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def test_globals_are_merged_by_key_and_sources_are_replaced_whole(conf: Path) -> None:
    say("mine/globals.yml", "seeds: {own: data/own}\ndata: data/mine\nfolders: {work: /fast/work}\n")
    merged = Layers("mine").globals
    assert merged["seeds"] == {"own": "data/own"}
    assert merged["pool"] == ["data/raw"]
    assert merged["folders"] == {"sample": "raw/sample", "scan": "data/mine/scan", "work": "/fast/work"}
    assert Layers().globals["folders"]["scan"] == "data/scan"


def test_local_is_laid_over_whichever_environment_runs(conf: Path) -> None:
    say("mine/globals.yml", "data: data/mine\n")
    say("mine/pretraining/parameters.yml", "pretraining: {model: {depth: 12}}\n")
    say("local/globals.yml", "data: /fast\n")
    say("local/parameters.yml", "pretraining: {model: {side: 56}}\n")
    for env, depth in (("mine", 12), (None, 6), ("local", 6), ("base", 6)):
        assert Layers(env).parameters == {
            "pretraining": {"output": "/fast/scan", "model": {"depth": depth, "side": 56}}
        }


def test_params_are_over_everything_and_references_follow_them(conf: Path) -> None:
    say("base/pretraining/parameters.yml", "pretraining: {side: 28, crop: '${.side}', lr: 1e-3}\n")
    layers = Layers(params={"pretraining": {"side": 56}})
    assert layers.parameters["pretraining"] == {"side": 56, "crop": 56, "lr": 1e-3}
    assert layers.origin("pretraining.side") == "--params"


def test_entries_of_a_catalog_are_replaced_whole(conf: Path) -> None:
    say("base/catalog.yml", "_like: {type: a}\nscan: {type: a, folder: '${globals:folders.scan}'}\nkept: {type: b}\n")
    say("mine/globals.yml", "data: data/mine\n")
    assert Layers("mine").entries("catalog")["scan"] == {"type": "a", "folder": "data/mine/scan"}
    say("mine/catalog.yml", "scan: {type: c}\n")
    assert Layers("mine").entries("catalog") == {"scan": {"type": "c"}, "kept": {"type": "b"}}


@pytest.mark.parametrize(
    ("key", "file"),
    [
        ("pretraining.model.depth", "conf/mine/pretraining/parameters.yml"),
        ("pretraining.model.side", "conf/local/parameters.yml"),
        ("pretraining.model", "conf/local/parameters.yml"),
        ("pretraining.model.dept", "conf/local/parameters.yml"),  # nobody says it: the topmost that says its neighbours
        ("pretraining.output", "conf/mine/globals.yml"),  # taken from a global
        ("pretraining.steps", "--params"),
        ("pool.0", "conf/local/globals.yml"),
        ("folders.scan", "conf/mine/globals.yml"),  # `data` moves it
        ("folders.sample", "conf/base/globals.yml"),
        ("distillation.steps", "conf/base/globals.yml"),
        ("pretrainin.steps", "conf/base/globals.yml"),
    ],
)
def test_the_origin_of_a_key(conf: Path, key: str, file: str) -> None:
    say("mine/globals.yml", "folders: {scan: elsewhere}\n" if key == "pretraining.output" else "data: data/mine\n")
    say("mine/pretraining/parameters.yml", "pretraining: {model: {depth: 12}}\n")
    say("local/parameters.yml", "pretraining: {model: {side: 56}}\n")
    say("local/globals.yml", "pool: [/own]\n")
    assert Layers("mine", params={"pretraining": {"steps": 3}}).origin(key) == file


def test_the_key_that_moved_a_folder_is_known(conf: Path) -> None:
    say("mine/globals.yml", "data: data/mine\n")
    origin = Layers("mine").origin
    assert (origin("folders.scan"), getattr(origin("folders.scan"), "key", "")) == ("conf/mine/globals.yml", "data")
    said = origin("pretraining.output")
    assert (said, getattr(said, "key", "")) == ("conf/mine/globals.yml", "data")
    assert getattr(origin("folders.sample"), "key", "") == "folders.sample"


def test_an_emptied_mapping_is_the_fault_of_whoever_emptied_it(conf: Path) -> None:
    say("local/parameters.yml", "pretraining:\n")
    for key in ("pretraining", "pretraining.output", "pretraining.model.depth"):
        assert Layers().origin(key) == "conf/local/parameters.yml"


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("local/globals.yml", "pool: [a\nseeds: b\n", ["conf/local/globals.yml is not valid YAML", "line 2"]),
        ("local/parameters.yml", "a: 1\na: 2\n", ["conf/local/parameters.yml is not valid YAML", "duplicate key a"]),
        ("local/globals.yml", "- a\n", ["conf/local/globals.yml is not a mapping", "a list"]),
        ("local/globals.yml", "hello\n", ["conf/local/globals.yml is not a mapping", "the text 'hello'"]),
        ("local/parameters.yml", "hello\n", ["conf/local/parameters.yml is not a mapping", "the text 'hello'"]),
        ("local/globals.yml", "data: ${dat}\n", ["conf/local/globals.yml refers", "'dat'"]),
        (
            "local/parameters.yml",
            "pretraining: {output: '${globals:folder.scan}'}\n",
            ["conf/local/parameters.yml", "folder.scan"],
        ),
        (
            "local/parameters_b.yml",
            "pretraining: {model: {side: 1}}\n",
            ["parameters_a.yml", "parameters_b.yml", "pretraining.model.side"],
        ),
    ],
)
def test_the_file_that_is_wrong_is_named(conf: Path, file: str, text: str, said: list[str]) -> None:
    if file.endswith("_b.yml"):
        say("local/parameters_a.yml", "pretraining: {model: {side: 2}}\n")
    say(file, text)
    with pytest.raises(ConfigError) as caught:
        Layers().parameters  # noqa: B018
    for part in said:
        assert part in str(caught.value)


def test_only_credentials_read_the_environment(conf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "s")
    say("local/credentials.yml", "store: {key: '${oc.env:SECRET}'}\n")
    assert Layers().entries("credentials") == {"store": {"key": "s"}}
    say("local/parameters.yml", "pretraining: {output: '${oc.env:SECRET}'}\n")
    with pytest.raises(ConfigError, match="refers to what cannot be found"):
        Layers().parameters  # noqa: B018


def test_kedro_reads_the_same(conf: Path) -> None:
    from dinomill.config_loader import LayeredConfigLoader
    from dinomill.settings import CONFIG_LOADER_ARGS

    say("base/catalog.yml", "scan: {folder: '${globals:folders.scan}'}\n")
    say("mine/globals.yml", "data: data/mine\n")
    say("local/parameters.yml", "pretraining: {model: {side: 56}}\n")
    params: dict[str, Any] = {"pretraining": {"steps": 3}}
    loader = LayeredConfigLoader(str(conf), env="conf/mine/", runtime_params=params, **CONFIG_LOADER_ARGS)
    layers = Layers("mine", params=params)
    assert loader["globals"] == layers.globals
    assert (
        loader["parameters"]
        == layers.parameters
        == {"pretraining": {"output": "data/mine/scan", "model": {"depth": 6, "side": 56}, "steps": 3}}
    )
    # Another environment's configuration read in between changes nothing.
    assert Layers().parameters["pretraining"]["output"] == "data/scan"
    assert loader["catalog"] == {"scan": {"folder": "data/mine/scan"}}
    assert loader.layers.origin("pretraining.model.side") == "conf/local/parameters.yml"
