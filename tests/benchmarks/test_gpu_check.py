"""What gpu_check.py says without a GPU, keeps between calls, and writes. All of its rows run in test_smoke.py."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.benchmarks.scripts import BENCHMARKS


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "gpu_check.py"), "--results", str(tmp_path / "results.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1
    assert "no GPU" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_what_was_measured_is_kept_for_the_same_machine_and_code(scripts: None, tmp_path: Path) -> None:
    from gpu_check import Results

    machine = {"device": "a GPU", "torch": "2", "code": "abc"}
    Results(tmp_path / "results.json", machine).keep("reads", {"waits": 0})
    assert Results(tmp_path / "results.json", machine).rows == {"reads": {"waits": 0}}
    assert Results(tmp_path / "results.json", {**machine, "code": "abd"}).rows == {}


def test_the_section_says_what_was_found_and_what_is_missing(scripts: None, tmp_path: Path) -> None:
    from gpu_report import BEGIN, END, section, write_section

    document = tmp_path / "performance.md"
    document.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", encoding="utf-8")
    rows = {
        "reads": {"waits": 2, "reads": 0},
        "vitl14": {"eager_step_s": 0.2, "utilisation": 0.5, "images_per_s": 120.0},
        "data": {"failed": "took more than 120 s"},
    }
    write_section(document, section({"device": "a GPU", "torch": "2", "code": "abc"}, rows))
    text = document.read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "| waits of the host in a step | 2 | at most 0 | NO |" in text
    assert "| vitl14: share of the GPU's stated peak | 0.5 | at least 0.45 | yes |" in text
    assert "took more than 120 s" in text
    assert "| vitl14 | 48 | 0.2 / – / – / – | – / – / – / – | 120 | 50.0% | – |" in text
    assert "vits14 | 128" not in text


def test_the_document_has_its_section() -> None:
    text = (BENCHMARKS.parent / "docs" / "performance.md").read_text(encoding="utf-8")
    assert text.index("<!-- gpu-check: begin -->") < text.index("<!-- gpu-check: end -->")
