"""Packaging: the registered model as an archive that TorchServe serves, proven by a request."""
