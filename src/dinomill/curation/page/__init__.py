"""The page about it all."""
