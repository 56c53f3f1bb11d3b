"""`dinomill ui`: the MLflow page of the project's store, on this machine only."""

from __future__ import annotations

import os
import socket
import sys

from dinomill.commands.project import read_globals
from dinomill.commands.stoppable import run_until_stopped
from dinomill.errors import MachineError
from dinomill.layers import env_option
from dinomill.tracking import redact, resolve_uri
from dinomill.tracking.connection import make_ready

HOST = "127.0.0.1"
# MLflow's page begins with what belongs to prompts and agents.
TRAININGS = "#/experiments?workflowType=machine_learning"


def serve_ui(port: int, env: str | None = None) -> None:
    """Run the MLflow server until Ctrl-C; returns at once when the store is somewhere else and has a page of its own.

    Raises:
        MachineError: When the port is in use, or the server ends by itself.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or read_globals(env)["tracking_uri"]
    if uri.startswith(("http://", "https://")):
        print(f"The runs are on the server {redact(uri)}: open that address.")
        return
    if not port_is_free(port):
        raise MachineError(
            f"Port {port} on {HOST} is in use.",
            action="end the program that uses it, or choose another: "
            f"`dinomill ui --port {_next_free(port)}{env_option(env)}`",
        )
    make_ready(resolve_uri(uri))  # the server would make a new database in place, and leave half of one when stopped
    print(f"MLflow: http://{HOST}:{port}/{TRAININGS} (a few seconds until it answers; Ctrl-C ends it)", flush=True)
    # Job execution is for features that dinomill does not use, and makes the start five times as long.
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    arguments = ["-m", "mlflow", "server", "--backend-store-uri", resolve_uri(uri), "--host", HOST, "--port", str(port)]
    if code := run_until_stopped([sys.executable, *arguments, "--workers", "1"]):
        raise MachineError(f"The MLflow server ended by itself, with code {code}.", action="read what it said above")


def port_is_free(port: int) -> bool:
    """Whether a server could listen on this port of the loopback interface now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _next_free(port: int) -> int:
    return next((other for other in range(port + 1, port + 100) if port_is_free(other)), port + 1)
