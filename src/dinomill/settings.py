"""Kedro's settings: how configuration is found and merged, and the hooks that run.

``conf/base/<stage>/{catalog,parameters}.yml`` is the default; ``--env paper/vitl14`` puts ``conf/paper/vitl14`` on it.
Parameters merge key by key, so that an environment states only what differs; globals and catalog entries are replaced
whole.
"""

from __future__ import annotations

from typing import Any

from kedro.config import OmegaConfigLoader

from dinomill.execution.threads import wait_asleep
from dinomill.hooks import ProjectHooks

wait_asleep()

HOOKS = (ProjectHooks(),)

CONFIG_LOADER_CLASS = OmegaConfigLoader
CONFIG_LOADER_ARGS: dict[str, Any] = {
    "base_env": "base",
    "default_run_env": "local",
    "merge_strategy": {"parameters": "soft"},
}
