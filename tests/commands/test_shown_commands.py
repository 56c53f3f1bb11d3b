"""What commands say to type next means the environment that they were called for."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from dinomill.commands.bootstrap import _registered, _with_network
from dinomill.commands.dvc_sync import sync_command
from dinomill.commands.package import _torchserve
from dinomill.commands.plan import make_plan
from dinomill.commands.project import result
from dinomill.commands.publish import publish_package
from dinomill.commands.ui import serve_ui
from dinomill.errors import ConfigError, DinomillError, InputError, MachineError
from dinomill.handles import RegistrationHandle
from dinomill.serving.torchserve import behind
from dinomill.tracking import store_at_work
from dinomill.tracking.registry import resolve
from tests.conftest import PROJECT
from tests.serving.gateway.served import make_package


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Configuration with the environment `field`, and no results."""
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "conf" / "field").mkdir(parents=True)
    (tmp_path / "conf" / "base").symlink_to(PROJECT / "conf" / "base")
    (tmp_path / "conf" / "field" / "globals.yml").write_text("data: data/field\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def failing() -> RegistrationHandle:
    return RegistrationHandle(
        folder=Path("registration"),
        made_of="0" * 64,
        model="mill",
        version=3,
        aliases=(),
        uri="models:/mill/3",
        weights_sha256="0" * 64,
        source=Path("teacher"),
        passed_gate=False,
        gate=("FAILED: no better than random weights",),
    )


def action(failed: pytest.ExceptionInfo[DinomillError]) -> str:
    return str(failed.value.action)


def test_bootstrap() -> None:
    with pytest.raises(InputError) as failed:
        _registered(failing(), "field")
    assert "dinomill bootstrap --model models:/mill/3 --env field" in action(failed)
    with pytest.raises(ConfigError) as wrong:
        _with_network("curation: {}", "models:/mill/3", Path("parameters.yml"), "field")
    assert "`make run ENV=field`" in action(wrong)


def test_plan_and_sync(project: Path) -> None:
    with pytest.raises(InputError) as failed:
        make_plan(Path("conf/field/dvc.yaml"))
    assert "`dinomill dvc sync --env field`" in action(failed)
    assert sync_command("field") == "dinomill dvc sync --env field"
    with pytest.raises(InputError) as base:
        make_plan()
    assert action(base) == "run `dinomill dvc sync`"


def test_results(project: Path) -> None:
    with pytest.raises(InputError) as failed:
        result("package", "field")
    assert "make run ENV=field" in action(failed)


def test_publish(project: Path) -> None:
    with pytest.raises(ConfigError) as failed:
        publish_package(None, "field")
    assert "dinomill publish --store s3://… --env field" in action(failed)


def test_package(
    project: Path, backbone: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(behind, "require_whole", lambda *_: None)
    make_package(project / "package", backbone, 3)
    _torchserve(project / "package", None, "field")
    assert "here: dinomill serve --env field" in capsys.readouterr().out


def test_ui(project: Path) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        with pytest.raises(MachineError) as failed:
            serve_ui(busy.getsockname()[1], "field")
    assert action(failed).endswith("--env field`")


def test_registered_models(project: Path) -> None:
    for env, said in (("field", "`kedro run --pipelines registration --env field`"), (None, "pipelines registration`")):
        with store_at_work(env), pytest.raises(MachineError) as failed:
            resolve("models:/mill@champion")
        assert said in action(failed)
