"""Curation: from a messy pool of images to a deduplicated, relevant, balanced dataset in shards."""
