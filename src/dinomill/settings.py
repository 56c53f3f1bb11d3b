"""Kedro's settings: how configuration is found and merged, and the hooks that run.

`dinomill.layers` says how the files of ``conf`` are laid over one another.
"""

from __future__ import annotations

from typing import Any

from dinomill.config_loader import LayeredConfigLoader
from dinomill.execution.threads import wait_asleep
from dinomill.hooks import ProjectHooks

wait_asleep()

HOOKS = (ProjectHooks(),)

CONFIG_LOADER_CLASS = LayeredConfigLoader
CONFIG_LOADER_ARGS: dict[str, Any] = {
    "base_env": "base",
    "default_run_env": "local",
    "merge_strategy": {"parameters": "soft"},
}
