"""The page, in a real browser."""

from __future__ import annotations

import asyncio
import http.client
from pathlib import Path

import pytest

from tests.serving.gateway.browser import CHROMIUM, Tab, tab
from tests.serving.gateway.served import Served

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")


@pytest.fixture
def images(photographs: list[bytes], tmp_path: Path) -> list[Path]:
    files = []
    for number, image in enumerate(photographs):
        files.append(tmp_path / f"photo-{number}.jpg")
        files[-1].write_bytes(image)
    return files


async def _ask(page: Tab, image: Path) -> None:
    await page.choose("#file", image)
    await page.wait(f"document.querySelector('#about').textContent.startsWith('{image.name}')")


@needs_browser
def test_an_image_is_embedded_and_nothing_breaks(served: Served, images: list[Path], tmp_path: Path) -> None:
    async def visit() -> None:
        async with tab(f"http://127.0.0.1:{served.port}/#token={served.token}") as page:
            await page.wait("!document.querySelector('#ask').hidden")
            assert await page.see("location.hash") == ""  # the token is not left where it can be read over a shoulder
            assert "mill, version 3: ready, 1 of 1 worker" in await page.see("document.body.innerText")
            for image in (images[0], images[1], images[0]):
                await _ask(page, image)
            shown = await page.see("document.querySelector('#facts').innerText")
            assert "64" in shown
            nearest = await page.see("document.querySelector('#earlier-list b').textContent")
            assert nearest == "1.000"  # it was tried before
            number = (await page.see("document.querySelector('#lineage').textContent")).split()[-1]
            assert served.log()[-1]["id"] == number
            assert await page.see("document.querySelector('#neighbours').hidden")  # nothing is made up
            for width in (1400, 390):
                await page.resize(width, 900, phone=width < 500)
                assert await page.see("document.documentElement.scrollWidth") <= width
            broken = tmp_path / "broken.jpg"
            broken.write_bytes(images[0].read_bytes()[:2000])
            await page.choose("#file", broken)
            await page.wait("!document.querySelector('#problem').hidden")
            page.console = [line for line in page.console if "status of 400" not in line]
            assert page.console == []

    asyncio.run(visit())


@needs_browser
def test_a_token_can_be_pasted_and_a_wrong_one_is_said(served: Served) -> None:
    async def visit() -> None:
        async with tab(f"http://127.0.0.1:{served.port}/") as page:
            await page.wait("!document.querySelector('#token-form').hidden")
            for token, expected in (("wrong", "'#token-error'"), (served.token, "'#ask'")):
                await page.see(f"document.querySelector('#token').value = '{token}'")
                await page.see("document.querySelector('#token-form button').click()")
                await page.wait(f"!document.querySelector({expected}).hidden")
            assert await page.see("document.querySelector('#token-form').hidden")

    asyncio.run(visit())


def test_a_browser_may_run_nothing_else(served: Served) -> None:
    for path, kind in (
        ("/", "text/html"),
        ("/page.js", "text/javascript"),
        ("/shown.js", "text/javascript"),
        ("/page.css", "text/css"),
    ):
        link = http.client.HTTPConnection("127.0.0.1", served.port)
        link.request("GET", path)
        answer = link.getresponse()
        content = answer.read().decode()
        link.close()
        assert answer.status == 200
        assert answer.getheader("content-type", "").startswith(kind)
        policy = answer.getheader("content-security-policy", "")
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.getheader("x-content-type-options") == "nosniff"
        assert "http://" not in content
        assert "https://" not in content
        assert served.token not in content
