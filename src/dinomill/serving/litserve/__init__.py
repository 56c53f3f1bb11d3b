"""LitServe as the program that runs workers and queues; what clients speak to is the gateway, within its process."""
