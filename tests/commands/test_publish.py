"""What `dinomill publish` and `dinomill serve` show to be typed next means the same environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dinomill.commands import publish
from dinomill.commands.registry import Registry
from dinomill.errors import ConfigError, DinomillError, InputError
from dinomill.serving.model_store import Published
from dinomill.tracking.connection import connect


@pytest.fixture(autouse=True)
def _in_project(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project}/mlflow.db")


def test_where_to_publish_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="dinomill publish --store s3://… --env fashion, or set"):
        publish.publish_package(None, "fashion")
    with pytest.raises(ConfigError, match="dinomill publish --store s3://…, or set"):
        publish.publish_package(None, None)


@pytest.mark.parametrize(("env", "option"), [("fashion", " --env fashion"), (None, "")])
def test_what_was_published_is_served_by(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], env: str | None, option: str
) -> None:
    done = Published(uri="s3://models/mill/3", sha256="a" * 64, bytes=1000, fresh=True)
    monkeypatch.setattr("dinomill.serving.model_store.publish", lambda *_: done)
    monkeypatch.setattr(publish, "result", lambda *_: Path("package"))
    monkeypatch.setattr(publish, "_write_into_registry", lambda *_: "models:/mill/3")
    publish.publish_package("s3://models", env)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].endswith("on any machine:  dinomill serve s3://models/mill/3")
    assert lines[2].endswith(f"where the registry is:  dinomill serve models:/mill/3{option}")

    def refuse(*_: object) -> str:
        raise DinomillError("It is away.")

    monkeypatch.setattr(publish, "_write_into_registry", refuse)
    publish.publish_package("s3://models", env)
    assert f"`dinomill serve models:/…{option}` does not find it" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("address", "env", "command"),
    [
        (None, None, "dinomill serve"),
        (None, "fashion", "dinomill serve --env fashion"),
        ("models:/mill@champion", "fashion", "dinomill serve models:/mill@champion --env fashion"),
    ],
)
def test_a_server_is_told_how_it_was_started(
    monkeypatch: pytest.MonkeyPatch, address: str | None, env: str | None, command: str
) -> None:
    told: dict[str, Any] = {}
    monkeypatch.setattr("dinomill.serving.gateway.serve.serve", lambda _, **options: told.update(options))
    publish.serve_address(address, 8080, env)
    assert told["command"] == command


def test_what_is_not_registered_is_registered_in_the_environment(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DinomillError, match="`kedro run --pipelines registration --env fashion`"):
        publish.package_at("models:/mill@champion", "fashion")
    connect(f"sqlite:///{project}/mlflow.db")
    with pytest.raises(InputError, match=r"\(`kedro run --pipelines registration --env fashion`\)"):
        publish.package_at("models:/mill@champion", "fashion")
    with pytest.raises(InputError, match="registration`, with `--env` in an environment"):
        publish.package_at("models:/mill@champion", None)


def test_versions_are_listed_of_the_environment() -> None:
    with pytest.raises(InputError, match="`dinomill versions --env fashion` lists"):
        Registry.of("fashion").version("no such name!")
