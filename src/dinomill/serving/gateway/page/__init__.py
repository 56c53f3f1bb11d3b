"""The page on which a model can be tried: its files, and how they are sent."""
