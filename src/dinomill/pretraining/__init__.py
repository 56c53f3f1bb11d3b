"""The pretraining stage: a teacher–student ViT on a curated dataset."""
