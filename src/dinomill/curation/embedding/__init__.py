"""Features of every readable image."""
