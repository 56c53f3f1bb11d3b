"""The self-distillation engine shared by pretraining and distillation."""
