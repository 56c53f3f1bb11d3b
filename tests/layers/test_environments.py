from __future__ import annotations

from pathlib import Path

import pytest

from dinomill.errors import ConfigError
from dinomill.layers import Layers, check_environment, env_option, environments


def test_a_command_that_is_shown_names_the_environment() -> None:
    assert (env_option("paper/vitl14"), env_option(None)) == (" --env paper/vitl14", "")


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in (
        "base/globals.yml",
        "base/pretraining/parameters.yml",
        "local/parameters.yml",
        "mine/globals.yml",
        "mine/curation/parameters.yml",
        "mine/curation/more/parameters_more.yml",  # a part of it, as Kedro reads it
        "mine/sizes/parameters_sizes.yml",
        "mine/smaller/pretraining/parameters.yml",  # an environment of its own
        "paper/vitl14/pretraining/parameters.yml",
        "paper/old/vitb/parameters.yml",
        "trial/parameters.yml",
        ".hidden/globals.yml",
    ):
        path = Path("conf", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}\n", encoding="utf-8")
    Path("conf/empty/pretraining").mkdir(parents=True)
    return Path("conf")


def test_every_folder_that_differs_is_one(conf: Path) -> None:
    assert environments() == ["mine", "mine/smaller", "paper/old/vitb", "paper/vitl14", "trial"]


def test_an_environment_reads_its_own_files_only(conf: Path) -> None:
    files = [path.as_posix() for path in Layers("mine").files("parameters")]
    assert files == [
        "conf/base/pretraining/parameters.yml",
        "conf/mine/curation/more/parameters_more.yml",
        "conf/mine/curation/parameters.yml",
        "conf/mine/sizes/parameters_sizes.yml",
        "conf/local/parameters.yml",
    ]
    assert [path.as_posix() for path in Layers("mine").files("globals")] == [
        "conf/base/globals.yml",
        "conf/mine/globals.yml",
    ]


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("mine", "mine"),
        ("conf/mine/", "mine"),
        ("paper/vitl14/", "paper/vitl14"),
        ("", None),
        ("local", None),
        ("base", None),
    ],
)
def test_names_as_they_are_typed(conf: Path, typed: str, name: str | None) -> None:
    assert check_environment(typed) == name


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("paper", ["paper holds recipes", "--env paper/old/vitb, --env paper/vitl14"]),
        ("nosuch", ["no environment 'nosuch'", "mine, mine/smaller, paper/old/vitb, paper/vitl14, trial"]),
        ("trail", ["did you mean 'trial'"]),
        ("empty", ["no environment 'empty'"]),
        ("../conf/mine", ["no environment"]),
        ("mine/curation", ["no environment"]),
    ],
)
def test_what_is_none_says_what_to_type(conf: Path, typed: str, said: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        check_environment(typed)
    for part in said:
        assert part in str(caught.value)
