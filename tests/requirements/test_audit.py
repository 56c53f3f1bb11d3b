from __future__ import annotations

import datetime
import importlib.util
import tomllib
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

PROJECT = Path(__file__).parents[2]
TODAY = datetime.date(2026, 11, 26)
# As pip-audit 2.10 writes it.
FOUND: dict[str, Any] = {
    "dependencies": [
        {
            "name": "diskcache",
            "version": "5.6.3",
            "vulns": [{"id": "PYSEC-1", "aliases": ["CVE-2025-69872"], "fix_versions": [], "description": "…"}],
        },
        {"name": "numpy", "version": "2.4.6", "vulns": []},
    ],
    "fixes": [],
}
DECISION = {
    "id": "CVE-2025-69872",
    "package": "diskcache",
    "decision": "accepted",
    "because": "…",
    "until": datetime.date(2027, 1, 1),
}


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", PROJECT / "requirements/audit.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_decided_passes(audit: ModuleType) -> None:
    lines, code = audit.judge(FOUND, [DECISION], TODAY)
    assert code == 0
    assert lines[-1] == "2 of 2 packages were looked up, 0 findings are undecided."


def test_what_is_not_decided_fails(audit: ModuleType) -> None:
    lines, code = audit.judge(FOUND, [], TODAY)
    assert code == 1
    assert lines[0].startswith("UNDECIDED diskcache 5.6.3: PYSEC-1; mended in no release")
    assert audit.judge(FOUND, [DECISION | {"package": "numpy"}], TODAY)[1] == 1


def test_a_decision_ends(audit: ModuleType) -> None:
    lines, code = audit.judge(FOUND, [DECISION], datetime.date(2027, 1, 2))
    assert code == 1
    assert lines[0].startswith("OUTLIVED")


def test_what_was_not_looked_up_is_no_all_clear(audit: ModuleType) -> None:
    skipped = {"name": "pillow", "skip_reason": "Dependency not found on PyPI and could not be audited"}
    lines, code = audit.judge({"dependencies": [skipped], "fixes": []}, [DECISION], TODAY)
    assert code == 2
    assert "no all-clear" in lines[-1]
    assert not any(line.startswith("SPARE") for line in lines)


def test_a_decision_about_nothing_is_named(audit: ModuleType) -> None:
    lines, code = audit.judge({"dependencies": FOUND["dependencies"][1:], "fixes": []}, [DECISION], TODAY)
    assert code == 0
    assert any(line.startswith("SPARE     diskcache") for line in lines)


def test_our_decisions_can_be_read_and_are_about_the_lock() -> None:
    locked = {line.split("==")[0] for line in (PROJECT / "requirements/lock.txt").read_text().splitlines()}
    for one in tomllib.loads((PROJECT / "requirements/advisories.toml").read_text())["decision"]:
        assert set(one) == {"id", "package", "decision", "because", "until"}
        assert one["package"] in locked
        assert one["decision"] in {"accepted", "mitigated"}
        assert isinstance(one["until"], datetime.date)


def test_what_lies_in_torchserves_java_archive_is_what_we_decided_about() -> None:
    """No tool for Python sees it: docs/security.md names the version of Netty that the decisions there are about."""
    import ts

    with zipfile.ZipFile(Path(ts.__file__).parent / "frontend/model-server.jar") as jar:
        versions = jar.read("META-INF/io.netty.versions.properties").decode()
        names = set(jar.namelist())
    found = {
        line.split("=")[1].strip() for line in versions.splitlines() if line.startswith("netty-codec-http.version")
    }
    assert found == {"4.1.53.Final"}
    assert "Netty 4.1.53" in (PROJECT / "docs/security.md").read_text(encoding="utf-8")
    assert "org/yaml/snakeyaml/inspector/TagInspector.class" in names  # SnakeYAML 2, which makes no objects of tags
