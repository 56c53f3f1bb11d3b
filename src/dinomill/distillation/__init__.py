"""Distillation: a frozen teacher compressed into smaller students."""
