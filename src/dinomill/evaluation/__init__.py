"""Evaluation: how good frozen features are, beside raw pixels and random weights."""
