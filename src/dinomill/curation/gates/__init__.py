"""What curation's tables have to meet."""
