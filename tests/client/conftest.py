"""A real server to ask, as the gateway's tests have it."""

from tests.serving.gateway.conftest import package, served

__all__ = ["package", "served"]
