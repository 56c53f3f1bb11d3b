"""The distillation stage: a frozen teacher into smaller ViTs."""
