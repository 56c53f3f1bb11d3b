"""The losses of self-distillation, one concept a file."""
