"""No credential stands in what is tracked, and no key for one exists: the standard chains alone bring them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import configuration
import yaml

from tests.conftest import PROJECT

_SECRET_KEY = re.compile(r"(^|[._])(password|passwd|secret_key|access_key|api_key|token|credentials)$", re.I)
_SHAPES = re.compile(
    r"AKIA[0-9A-Z]{16}|-----BEGIN [A-Z ]*PRIVATE KEY|gh[pousr]_[A-Za-z0-9]{30,}|hf_[A-Za-z]{30,}"
    r"|://[^/\s:@{}<>$]+:[^/\s:@{}<>$]{6,}@(?!127\.0\.0\.1|localhost|example|[a-z.]*example)"
)


def tracked(*places: str) -> list[Path]:
    said = subprocess.run(
        ["git", "ls-files", "-z", *places], cwd=PROJECT, capture_output=True, text=True, check=True
    ).stdout
    return [PROJECT / name for name in said.split("\0") if name and (PROJECT / name).is_file()]


def test_no_key_of_the_configuration_holds_a_credential() -> None:
    keys = [
        key.path
        for stage, model in configuration.stage_models().items()
        for key in configuration.keys_of(model, stage)
        if _SECRET_KEY.search(key.path)
    ]
    assert not keys


def test_no_file_of_configuration_names_one() -> None:
    found = []
    for path in tracked("conf"):
        assert not path.name.startswith("credentials"), path
        if path.suffix in (".yml", ".yaml"):
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
            found += [f"{path}: {key}" for key in _keys(values) if _SECRET_KEY.search(key)]
    assert not found


def test_nothing_tracked_looks_like_one() -> None:
    paths = tracked("conf", "src", "pipelines", "docs", "website", "README.md", "Makefile", ".dvc")
    found = [
        f"{path}: {match.group(0)[:24]}"
        for path in paths
        if path.suffix in (".py", ".yml", ".md", ".toml", ".json", "")
        for match in _SHAPES.finditer(path.read_text(encoding="utf-8", errors="ignore"))
    ]
    assert len(paths) > 100 and not found
    assert _SHAPES.search("postgresql://mill:hush-hush@db.internal/mlflow")


def _keys(values: object) -> list[str]:
    if isinstance(values, dict):
        return [str(key) for key in values] + [key for value in values.values() for key in _keys(value)]
    return [key for value in values for key in _keys(value)] if isinstance(values, list) else []
