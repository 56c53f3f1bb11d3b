"""`dinomill tracking sync`: what was recorded while the MLflow store was away, brought to it."""

from __future__ import annotations

from dinomill.commands.registry import Registry
from dinomill.tracking import redact
from dinomill.tracking.spool import spool_folder
from dinomill.tracking.sync import synchronise as bring


def synchronise(env: str | None = None) -> int:
    """Bring all that waits, and say of each run what became of it.

    Args:
        env: Only what is meant for this environment's store; None: all.

    Returns:
        The exit code: 1 when some was left.

    Raises:
        MachineError: When a store still cannot be reached.
    """
    store = None if env is None else Registry.of(env).store
    found = bring(store)
    if not found:
        print(f"Nothing waits in {spool_folder()}" + (f" for {redact(store)}." if store else "."))
    for one in found:
        what = f"left: {one.left}" if one.left else f"{one.lines} records, run {one.run_id}"
        print(f"{one.name}: {what}")
    return 1 if any(one.left for one in found) else 0
