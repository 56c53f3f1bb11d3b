"""Vision transformers, projection heads, and their weights on disk."""
