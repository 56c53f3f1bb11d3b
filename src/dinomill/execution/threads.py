"""How threads wait for each other in dinomill's own processes."""

from __future__ import annotations

import os


def wait_asleep() -> None:
    """Let OpenMP's threads sleep while they wait, unless the user has decided; to be called before torch is imported.

    By default they spin. On an idle machine neither is faster; beside other work spinning threads take the processors
    from those that they wait for: an evaluation of seconds then took minutes. Child processes inherit it.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
