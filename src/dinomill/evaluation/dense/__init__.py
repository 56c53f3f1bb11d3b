"""What protocols on places share: windows over an image, cached patch grids, pixels to learn from, full-size maps."""
