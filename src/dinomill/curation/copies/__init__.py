"""Which files show the same picture."""
