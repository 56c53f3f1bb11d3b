"""The site as `make docs` builds it: strict about links, complete in its reference, nothing fetched from elsewhere."""

from __future__ import annotations

import html
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import configuration
import pytest
from links import faults
from navigation import as_toml
from pages_of import BrokenLink, spaced, stage

from tests.conftest import PROJECT

zensical = pytest.mark.skipif(
    subprocess.run([sys.executable, "-c", "import zensical"], capture_output=True, check=False).returncode != 0,
    reason="zensical is not installed (make setup)",
)


def build(root: Path, code: int = 0) -> str:
    """What `website/build.py` said of a copy of the project."""
    command = [sys.executable, str(PROJECT / "website/build.py"), "--root", str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@zensical
def test_site_is_built_whole_and_works_without_a_network(copy: Path) -> None:
    said = build(copy)
    assert "every link and anchor leads somewhere" in said
    site = copy / "build/site"
    for page in ("index", "tutorial", "first-questions", "how-to/running", "decisions/0001-handles", "reference/conf"):
        assert (site / f"{page}.html").is_file(), page
    predictor = (site / "reference/python/predicting.html").read_text(encoding="utf-8")
    assert "dinomill.serving.predictor.Predictor" in predictor and ":::" not in predictor
    for page in site.rglob("*.html"):
        fetched = re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(https?://[^"]+)"', page.read_text("utf-8"))
        assert not fetched, page
    # Every key of every stage has an anchor of its own, with its description.
    for stage_name, model in configuration.stage_models().items():
        text = (site / f"reference/configuration/{stage_name}.html").read_text(encoding="utf-8")
        for key in configuration.keys_of(model, stage_name):
            assert f'id="{html.escape(key.path)}"' in text, key.path


@zensical
def test_a_page_out_of_the_navigation_or_with_a_wrong_anchor_stops_the_build(copy: Path) -> None:
    page = copy / "docs/trust.md"
    page.write_text(page.read_text(encoding="utf-8") + "\n[There](curation.md#no-such-heading)\n", encoding="utf-8")
    assert "no-such-heading" in build(copy, code=1)


SPOILS: dict[str, Callable[[str], str]] = {
    "a page that is not there": lambda text: text + "\n[there](nowhere.md)\n",
    "a script that is not there": lambda text: text + "\n[there](../benchmarks/nowhere.py)\n",
}


@pytest.mark.parametrize("spoil", SPOILS.values(), ids=SPOILS)
def test_links_to_what_is_not_there_are_named(copy: Path, tmp_path: Path, spoil: Callable[[str], str]) -> None:
    page = copy / "docs/how-to/copies.md"
    page.write_text(spoil(page.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(BrokenLink, match=r"docs/how-to/copies\.md: .*nowhere"):
        stage(copy, tmp_path / "staged")


def test_finished_pages_are_looked_through(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "index.html").write_text(
        '<a href="sub/other.html#here">x</a><a href="#top">x</a><a href="https://example.org">x</a>'
        '<a href="gone.html">x</a><a href="sub/other.html#nowhere">x</a><img src="sub/p.png">'
        '<script src="https://cdn.example.org/a.js"></script>'
    )
    (tmp_path / "sub/other.html").write_text('<h2 id="here">x</h2><a href="../index.html">x</a>')
    (tmp_path / "a.css").write_text('@import url("https://fonts.example.org/x.css");')
    assert faults(tmp_path) == [
        "index.html: sub/p.png is not there",
        "index.html: an image has no words (alt)",
        "index.html: would fetch https://cdn.example.org/a.js",
        "index.html: the link gone.html leads nowhere",
        "index.html: sub/other.html#nowhere names an anchor that is not there",
        "a.css: fetches from elsewhere",
    ]


def test_lists_are_written_as_python_markdown_reads_them() -> None:
    github = (
        "Text:\n- one\n  goes on\n\n      code of one\n- two\n  - under two\n    goes on\n\nEnd\n\n"
        "    - code\n```\n- as it is\n```"
    )
    assert spaced(github) == (
        "Text:\n\n- one\n    goes on\n\n        code of one\n- two\n    - under two\n        goes on\n\nEnd\n\n"
        "    - code\n```\n- as it is\n```"
    )


def test_every_field_of_the_configuration_is_described() -> None:
    """STYLE: every field has a description; the reference would show an empty line."""
    bare = [
        key.path
        for stage_name, model in configuration.stage_models().items()
        for key in configuration.keys_of(model, stage_name)
        if not configuration.said_of(key).strip() and not key.path.endswith(".kind")
    ]
    assert not bare


def test_navigation_is_toml() -> None:
    import tomllib

    entries = [{"Start": [{"Home": "index.md"}, {'A "quoted" one': "a.md"}]}]
    assert tomllib.loads(f"nav = {as_toml(entries)}")["nav"] == entries
