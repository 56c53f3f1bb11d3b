"""The data plane: manifest, shards, decoding, crops, masks, deterministic sampling."""
