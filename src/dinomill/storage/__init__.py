"""Atomic writes, hashes, local paths and S3."""
