"""Framework-free prediction and export of trained backbones."""
