"""A look at the finished pages: every link and anchor leads somewhere, and nothing is fetched from elsewhere."""

from __future__ import annotations

import posixpath
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# What a browser fetches by itself; links that a reader follows may lead anywhere.
_FETCHED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}
_FETCHING = {"stylesheet", "preconnect", "preload", "prefetch", "icon", "manifest"}


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = {name: value or "" for name, value in attrs}
        self.ids |= {said[name] for name in ("id", "name") if said.get(name)}
        if tag == "a" and "href" in said:
            self.links.append(said["href"])
        fetches = tag != "link" or bool(_FETCHING & set(said.get("rel", "").split()))
        if tag in _FETCHED and fetches and (address := said.get(_FETCHED[tag])):
            self.fetched.append(address)
        if tag == "img" and not said.get("alt", "").strip():
            self.fetched.append("")  # told as an image without words


def faults(site: Path) -> list[str]:
    """What is wrong with the pages of a folder, a line each."""
    pages: dict[str, _Page] = {}
    for path in sorted(site.rglob("*.html")):
        page = _Page()
        page.feed(path.read_text(encoding="utf-8"))
        pages[path.relative_to(site).as_posix()] = page
    found = [fault for name, page in pages.items() if name != "404.html" for fault in _of_page(name, page, pages, site)]
    return [*found, *_of_styles(site)]


def _of_page(name: str, page: _Page, pages: dict[str, _Page], site: Path) -> list[str]:
    found: list[str] = []
    for address in page.fetched:
        if not address:
            found.append(f"{name}: an image has no words (alt)")
        elif urlsplit(address).netloc:
            found.append(f"{name}: would fetch {address}")
        elif not address.startswith("data:") and not (site / _at(name, address)).exists():
            found.append(f"{name}: {address} is not there")
    for link in page.links:
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:
            continue
        target = _at(name, link) if parts.path else name
        if target not in pages:
            if not (site / target).is_file():
                found.append(f"{name}: the link {link} leads nowhere")
        elif parts.fragment and unquote(parts.fragment) not in pages[target].ids | {"__skip", "top"}:
            found.append(f"{name}: {link} names an anchor that is not there")
    return found


def _at(page: str, link: str) -> str:
    path = posixpath.normpath(posixpath.join(posixpath.dirname(page), unquote(urlsplit(link).path)))
    return posixpath.join(path, "index.html") if link.endswith("/") or path == "." else path


def _of_styles(site: Path) -> list[str]:
    texts = [(path, path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.css"))]
    return [
        f"{path.relative_to(site)}: fetches from elsewhere"
        for path, text in texts
        if "url(http" in text.replace('"', "")
    ]
