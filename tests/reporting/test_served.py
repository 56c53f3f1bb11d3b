"""The page says which backend computes, why, and what was measured of the others."""

from __future__ import annotations

import dataclasses
import html
import re
from pathlib import Path
from typing import Any

from dinomill.handles import PackageHandle
from dinomill.reporting.page import render_page
from dinomill.reporting.served import view_backends


def _row(runtime: str, precision: str, rate: float, **found: Any) -> dict[str, Any]:
    loads = [
        {
            "clients": clients,
            "images_per_second": rate,
            "images_per_cpu_second": rate + clients,
            "p50_ms": 1.0,
            "p99_ms": 2.0,
        }
        for clients in (1, 8, 32)
    ]
    return {
        "backend": {"runtime": runtime, "precision": precision},
        "cold_start_seconds": 2.5,
        "cold_start_cpu": 1.52,
        "memory_mb": 1234.5,
        "loads": loads,
        "min_cosine": 1.0,
        "neighbours": 1.0,
        "refused": None,
    } | found


_MEASURED = {
    "backend": "openvino bfloat16",
    "backends": (
        _row("eager", "float32", 9, knn=0.7, knn_loss=0.0, knn_images=256),
        _row("openvino", "bfloat16", 40, min_cosine=0.99974, knn=0.6961, knn_loss=0.0039, knn_images=256),
        _row("onnxruntime", "int8", 60, knn=0.65, knn_loss=0.05, knn_images=256, refused="kNN <65%> & less"),
        _row("openvino", "float32", 10, knn=0.7039, knn_loss=-0.0039, knn_images=256),
    ),
    "backends_left_out": {"openvino int8": "it did not end within 612 seconds"},
    "call_images": 64,
    "call_reason": "packaging.batching.max_instances; in time the machine would do 840 at 40.0 a second",
}


def _page(run: Any, output: Path, package: PackageHandle) -> str:
    page = render_page(dataclasses.replace(run.handles, package=package), run.config(output))
    return page[page.index('<section id="served">') : page.index('<section id="next">')]


def test_the_table_of_backends_is_on_the_page(run: Any, output: Path) -> None:
    page = _page(run, output, run.handles.package.model_copy(update=_MEASURED))
    rows = [
        [html.unescape(re.sub("<[^>]+>", "", cell)).strip() for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)]
        for row in re.findall(r"<tr.*?</tr>", page, re.DOTALL)
    ]
    clients = ["1 client", "8 clients", "32 clients"]
    assert rows[0] == [
        "Backend",
        *clients,
        "Worst cosine",
        "Neighbours",
        "kNN",
        "Lost",
        "Memory, MB",
        "Start, CPU-s",
        "",
    ]
    assert [row[0] for row in rows[1:]] == [
        "onnxruntime int8",
        "openvino bfloat16",
        "openvino float32",
        "eager float32",
    ]
    assert rows[1][1:] == [
        *("61.0", "68.0", "92.0", "1.00000", "100.0%", "65.0%", "5.0", "1,234", "1.5"),
        "refused",
    ]
    assert rows[2][4:] == ["0.99974", "100.0%", "69.6%", "0.4", "1,234", "1.5", "serves"]
    assert rows[3][7] == "gained 0.4"
    assert "<b>onnxruntime int8</b> was refused: kNN &lt;65%&gt; &amp; less." in page
    assert "openvino int8</b>, it did not end within 612 seconds" in page
    assert "the nearest of 256 labelled images" in page
    assert "<dt>Images of a call</dt><dd>64 " in page
    assert "in time the machine would do 840 at 40.0 a second" in page
    assert (
        "openvino bfloat16 computes the embeddings, the fastest of those that keep within the bounds: 2.7 times as many"
        " images a CPU-second as PyTorch as it was trained." in page
    )


def test_why_a_backend_was_taken(run: Any, output: Path) -> None:
    package = run.handles.package
    assert view_backends(package).why.startswith("eager float32 computes the embeddings, as it was asked for; nothing")
    plain, fast = _row("eager", "float32", 9), _row("openvino", "bfloat16", 40)
    chosen = package.model_copy(update={"backend": "openvino bfloat16", "backends": (plain, fast)})
    assert "the fastest of all that were measured: 2.7 times" in view_backends(chosen).why
    asked = chosen.model_copy(update={"backend": "eager float32"})
    assert view_backends(asked).why == "eager float32 computes the embeddings, as it was asked for."
    refused = asked.model_copy(update={"backends": (plain, fast | {"refused": "cosine"})})
    assert "the fastest of those that keep within the bounds." in view_backends(refused).why


def test_a_package_of_before_has_its_page(run: Any, output: Path) -> None:
    """Handles of earlier versions lack what is measured now."""
    page = _page(run, output, run.handles.package.model_copy(update={"backends": (_row("eager", "float32", 9),)}))
    assert "Images of a call" not in page
    assert ">Lost<" not in page
    assert "eager float32" in page
