"""Pretraining: a teacher backbone learnt from the curated images without labels."""
