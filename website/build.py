"""Build the documentation site; stops at a broken link or anchor, a page out of the navigation, a fetch from elsewhere.

build/pages/    what the generator reads: docs/, website/pages/, and the reference, made from code
build/site/     the site: open index.html, or `make docs-serve`
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import api
import commands
import configuration
from links import faults
from navigation import as_toml, navigation
from pages_of import BrokenLink, stage

ROOT = Path(__file__).resolve().parent.parent
_FETCHED = "https://unpkg.com/iframe-worker/shim"
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def main() -> int:
    """Build; the exit code is 1 when something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=ROOT, help="the project whose pages are built")
    root = parser.parse_args().root.resolve()
    os.chdir(root)
    try:
        config = prepare(root)
    except BrokenLink as error:
        print(f"error: links that lead nowhere\n{error}", file=sys.stderr)
        return 1
    wrong = render(config)
    if not wrong:
        bundle(root / "build/site")
        wrong = faults(root / "build/site")
    if wrong:
        print("\n".join(["error: the site has faults", *wrong]), file=sys.stderr)
        return 1
    pages = sum(1 for _ in (root / "build/site").rglob("*.html"))
    print(f"{pages} pages, every link and anchor leads somewhere: build/site/index.html")
    return 0


def prepare(root: Path) -> Path:
    """Lay out the pages and the generator's configuration, and return the latter."""
    pages = root / "build/pages"
    shutil.rmtree(pages, ignore_errors=True)
    pages.mkdir(parents=True)
    stage(root, pages)
    for address, text in {**api.pages(), **configuration.pages(), "reference/commands.md": commands.page()}.items():
        file = pages / address
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    shutil.copytree(root / "website/assets", pages / "assets")
    shutil.rmtree(root / "build/site", ignore_errors=True)
    config = root / "build/zensical.toml"
    said = (root / "website/zensical.toml").read_text(encoding="utf-8")
    places = f'[project]\ndocs_dir = "pages"\nsite_dir = "site"\nnav = {as_toml(navigation(pages))}'
    config.write_text(
        said.replace("[project]", places, 1).replace('paths = ["src"]', f'paths = ["{root / "src"}"]'), encoding="utf-8"
    )
    return config


def bundle(site: Path) -> None:
    """Take from the site itself what its pages would fetch: the script by which search works without a server."""
    for page in site.rglob("*.html"):
        near = os.path.relpath(site / "assets/iframe-worker.js", page.parent)
        page.write_text(page.read_text(encoding="utf-8").replace(_FETCHED, Path(near).as_posix()), encoding="utf-8")


def render(config: Path) -> list[str]:
    """Run the generator; what it complains of."""
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict", "--config-file", str(config)]
    done = subprocess.run(command, cwd=config.parent, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return []
    said = _COLOURS.sub("", done.stdout + done.stderr).strip()
    return [said or f"zensical ended with code {done.returncode}"]


if __name__ == "__main__":
    sys.exit(main())
