"""Kedro datasets: typed handles and sources."""
