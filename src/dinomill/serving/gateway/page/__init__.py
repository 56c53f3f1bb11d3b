"""The page on which a model can be tried: three files, and how they are sent."""
