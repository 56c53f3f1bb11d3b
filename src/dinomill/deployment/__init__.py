"""A package in a container: everything that `docker build`, `docker compose` and Kubernetes need, in one folder."""
