"""Tables that earlier stages left: read whole, or named with what makes them again."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dinomill.errors import InputError

OF_STAGE = "kedro run --pipelines {}"  # the command of a stage


def read_result(path: Path, command: str) -> pa.Table:
    """A Parquet file of an earlier result.

    Args:
        path: The file.
        command: What writes it.

    Raises:
        InputError: When it is cut off or damaged.
    """
    try:
        return pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{path} cannot be read.",
            found=str(error).splitlines()[0],
            expected="a whole Parquet file",
            action=f"remove it and write it again: {command} (of an environment with --env NAME); or `dvc checkout`",
        ) from None
