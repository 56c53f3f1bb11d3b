"""Vectors by the million: nearest neighbours, pairs that are close, clusters; exact, or with a measured recall."""
