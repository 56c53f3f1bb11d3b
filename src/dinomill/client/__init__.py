"""Ask a served model for embeddings: the public client, without torch.

    from dinomill.client import Client

    with Client("http://127.0.0.1:8080", token_file="data/work/serve/tokens.json") as client:
        vectors = client.embed(["a.jpg", "b.png"])    # [2, D] float32

A server that is busy, restarts, or loses a worker is asked again; a token that was renewed is read again.
"""

from dinomill.client.client import Client, Model

__all__ = ["Client", "Model"]
