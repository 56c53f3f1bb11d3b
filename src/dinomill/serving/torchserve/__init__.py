"""The only place that knows TorchServe."""
