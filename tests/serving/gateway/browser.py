"""Chromium without a window, driven through its debugging protocol."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)


class Tab:
    """A page; keeps what it writes to the console."""

    def __init__(self, link: aiohttp.ClientWebSocketResponse) -> None:
        self._link = link
        self._numbers = itertools.count(1)
        self.console: list[str] = []

    async def call(self, method: str, **parameters: Any) -> Any:
        number = next(self._numbers)
        await self._link.send_json({"id": number, "method": method, "params": parameters})
        while True:
            said = await self._link.receive_json(timeout=60)
            if said.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled"):
                self.console.append(json.dumps(said["params"]))
            if said.get("id") == number:
                assert "error" not in said, said["error"]
                return said["result"]

    async def see(self, expression: str) -> Any:
        said = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in said, said["exceptionDetails"]
        return said["result"].get("value")

    async def wait(self, expression: str, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not await self.see(expression):
            assert time.monotonic() < end, (expression, await self.see("document.body.innerText"), self.console)
            await asyncio.sleep(0.1)

    async def choose(self, selector: str, file: Path) -> None:
        root = (await self.call("DOM.getDocument"))["root"]["nodeId"]
        node = (await self.call("DOM.querySelector", nodeId=root, selector=selector))["nodeId"]
        await self.call("DOM.setFileInputFiles", files=[str(file)], nodeId=node)

    async def resize(self, width: int, height: int, *, phone: bool = False) -> None:
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone
        )

    async def picture(self, file: Path) -> None:
        said = await self.call("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(said["data"]))


@contextlib.asynccontextmanager
async def tab(url: str) -> AsyncIterator[Tab]:
    """Open an address in a browser of its own."""
    assert CHROMIUM is not None
    with tempfile.TemporaryDirectory(prefix="dinomill-browser-", ignore_cleanup_errors=True) as folder:
        options = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--remote-debugging-port=0",
            f"--user-data-dir={folder}",
        ]
        process = subprocess.Popen(
            [CHROMIUM, *options, "about:blank"], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        try:
            said = Path(folder) / "DevToolsActivePort"
            end = time.monotonic() + 60
            while not (said.exists() and said.read_text().strip()):
                assert time.monotonic() < end
                await asyncio.sleep(0.1)
            port = said.read_text().split()[0]
            async with aiohttp.ClientSession() as session:
                async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                    target = next(one for one in await answer.json() if one["type"] == "page")
                async with session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as link:
                    page = Tab(link)
                    for domain in ("Page", "Runtime", "Log", "DOM"):
                        await page.call(f"{domain}.enable")
                    await page.call("Page.navigate", url=url)
                    await page.wait("location.protocol === 'http:' && document.readyState === 'complete'")
                    yield page
        finally:
            process.terminate()
            process.wait(20)
