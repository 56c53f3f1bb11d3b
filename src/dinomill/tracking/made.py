"""Which run made a network: a tag of the run, so that results need not hold the id of a run to be traced to it."""

from __future__ import annotations

from pathlib import Path

from dinomill.tracking.connection import connect, tracking_errors

_MADE = "weights_sha256"


def made_tag(name: str, weights_sha256: str) -> dict[str, str]:
    """The tag of a run that made a network of this name."""
    return {f"{_MADE}.{name}": weights_sha256}


def run_that_made(tracking_uri: str, name: str, weights_sha256: str) -> str | None:
    """The id of the newest run that made a network; None where the store knows none.

    Args:
        tracking_uri: The store.
        name: Of the network, as the run tagged it.
        weights_sha256: Of its file of weights.

    Raises:
        MachineError: When the store cannot be reached.
    """
    client = connect(tracking_uri)
    with tracking_errors(tracking_uri):
        experiments = [str(one.experiment_id) for one in client.search_experiments()]
        wanted = f"tags.`{_MADE}.{name}` = '{weights_sha256}'"
        found = client.search_runs(experiments, filter_string=wanted, max_results=1)
    return found[0].info.run_id if found else None


def run_of_weights(tracking_uri: str, weights_sha256: str) -> str | None:
    """The id of the newest run that made a network, whatever it called it; None where the store knows none.

    Raises:
        MachineError: When the store cannot be reached.
    """
    client = connect(tracking_uri)
    with tracking_errors(tracking_uri):
        for experiment in client.search_experiments():
            token = None
            while True:
                page = client.search_runs([experiment.experiment_id], page_token=token)
                for run in page:
                    if any(key.startswith(_MADE) and value == weights_sha256 for key, value in run.data.tags.items()):
                        return str(run.info.run_id)
                token = page.token
                if not token:
                    break
    return None


def run_artifact(tracking_uri: str, run_id: str, name: str) -> Path | None:
    """A file that a run kept, on this machine; None where it kept none of this name.

    Raises:
        MachineError: When the store cannot be reached.
    """
    client = connect(tracking_uri)
    with tracking_errors(tracking_uri):
        if name not in {one.path for one in client.list_artifacts(run_id)}:
            return None
        return Path(client.download_artifacts(run_id, name))
