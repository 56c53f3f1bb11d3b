"""`python -m dinomill`: `kedro run` of this project, from anywhere, and of the package where it is installed alone.

python -m dinomill --project FOLDER --pipelines registration
python -m dinomill --conf-source conf --pipelines curation      the packaged project, with a folder of configuration
"""

from __future__ import annotations

import itertools
import os
import sys
from pathlib import Path
from typing import Any

from dinomill.layers.project import project_above


def main(*arguments: str) -> Any:
    """Run stages; the arguments are `kedro run`'s."""
    given = list(arguments) or sys.argv[1:]
    _say_where_logging_is_configured(given)
    from kedro.framework.project import configure_project

    from dinomill.commands.kedro_run import project_commands

    configure_project("dinomill")
    return project_commands.commands["run"].main(given, prog_name="python -m dinomill")


def _say_where_logging_is_configured(given: list[str]) -> None:
    """Kedro looks for it when it is imported, in the working directory alone."""
    named = next((value for name, value in itertools.pairwise(given) if name == "--project"), ".")
    root = project_above(Path(named).absolute())
    if root is not None and (root / "conf/logging.yml").is_file():
        os.environ.setdefault("KEDRO_LOGGING_CONFIG", str(root / "conf/logging.yml"))


if __name__ == "__main__":
    main()
