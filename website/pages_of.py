"""Pages as they lie in the repository, written as the site generator reads them.

The pages are GitHub's Markdown: a list may follow a paragraph without an empty line, and what belongs to an item stands
under its text. Python-Markdown wants the empty line, and four columns a level. Links to pages outside of docs/ lead to
their copies on the site; links to code and configuration become the path alone, after a look that it is there.
"""

from __future__ import annotations

import posixpath
import re
import shutil
from pathlib import Path

ELSEWHERE = {
    "conf/README.md": "reference/conf.md",
    "data/README.md": "reference/data.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "README.md": "overview.md",
}
_PICTURES = {".png", ".svg", ".jpg"}
_FENCE = re.compile(r"^\s*(```|~~~)")
_ITEM = re.compile(r"^(\s*)([-*+]|\d+\.)(\s+)\S")
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


class BrokenLink(Exception):
    """A link of a page leads to no file."""


def stage(root: Path, target: Path) -> list[str]:
    """Write every page to ``target``, with the pictures beside them, and return the pages' addresses there.

    Args:
        root: The project's folder.
        target: An empty folder.

    Raises:
        BrokenLink: Naming all links that lead nowhere.
    """
    pages = {path.relative_to(root / "docs").as_posix(): path for path in sorted((root / "docs").rglob("*.md"))}
    pages |= {address: root / source for source, address in ELSEWHERE.items()}
    own = root / "website/pages"
    pages |= {path.relative_to(own).as_posix(): path for path in sorted(own.rglob("*.md"))}
    where = {path.relative_to(root).as_posix(): address for address, path in pages.items()}
    broken: list[str] = []
    for address, path in pages.items():
        text = path.read_text(encoding="utf-8")
        text = _links(text, path.relative_to(root), address, root, where, broken)
        file = target / address
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(spaced(text), encoding="utf-8")
    if broken:
        raise BrokenLink("\n".join(broken))
    for picture in sorted(path for path in (root / "docs").rglob("*") if path.suffix in _PICTURES):
        file = target / picture.relative_to(root / "docs")
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(picture, file)
    return list(pages)


def _links(text: str, page: Path, address: str, root: Path, where: dict[str, str], broken: list[str]) -> str:
    def replaced(match: re.Match[str]) -> str:
        image, label, link = match.groups()
        if "://" in link or link.startswith(("#", "mailto:")):
            return match.group(0)
        path, hash_sign, anchor = link.partition("#")
        file = posixpath.normpath(posixpath.join(page.parent.as_posix(), path))
        if (root / file).is_dir() and f"{file}/README.md" in where:
            file = f"{file}/README.md"
        if file in where:
            to = posixpath.relpath(where[file], posixpath.dirname(address) or ".")
            return f"{image}[{label}]({to}{hash_sign}{anchor})"
        if not (root / file).exists():
            broken.append(f"{page}: {link} leads to no file")
            return match.group(0)
        return label if label.strip("`") == file else f"{label} (`{file}`)"

    lines: list[str] = []
    for line, code in _told_apart(text):
        lines.append(line if code else _LINK.sub(replaced, line))
    return "\n".join(lines)


def _told_apart(text: str) -> list[tuple[str, bool]]:
    """Lines, and whether each is of a fenced block."""
    told: list[tuple[str, bool]] = []
    fenced = False
    for line in text.split("\n"):
        edge = bool(_FENCE.match(line))
        told.append((line, fenced or edge))
        fenced ^= edge
    return told


def spaced(text: str) -> str:
    """A page with its lists as Python-Markdown reads them."""
    lines: list[str] = []
    levels: list[int] = []  # the column at which each open item's text starts
    for line, code in _told_apart(text):
        indent = len(line) - len(line.lstrip())
        if not line.strip():
            lines.append("")
            continue
        item = None if code else _ITEM.match(line)
        after_blank = not lines or not lines[-1]
        if item and not (levels and indent >= levels[-1] + 4) and (levels or indent < 4):
            begins = not levels
            levels = [level for level in levels if indent >= level]
            if begins and not after_blank:
                lines.append("")
            lines.append(" " * 4 * len(levels) + line.lstrip())
            levels.append(indent + len(item.group(2)) + len(item.group(3)))
            continue
        if levels and after_blank:
            levels = [level for level in levels if indent >= level]
        if levels:
            kept = [level for level in levels if indent >= level]
            extra = indent - kept[-1] if kept else 0
            lines.append(" " * (4 * len(kept or levels) + extra) + line.lstrip())
        else:
            lines.append(line)
    return "\n".join(lines)


def title_of(path: Path) -> str:
    """A page's first heading."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("# "):
            return line[2:].strip().replace("`", "")
    return path.stem
