"""What decides a pixel: the code and the libraries between a file's bytes and the picture that is looked at.

What is kept of an image (storage/kept.py) is kept under a hash of these: when one of them changes, it is made again.
"""

from __future__ import annotations

CODE = (
    "dinomill.images.array_files",
    "dinomill.images.bearable",
    "dinomill.images.coded_pieces",
    "dinomill.images.cut",
    "dinomill.images.decode",
    "dinomill.images.file_bytes",
    "dinomill.images.image_info",
    "dinomill.images.jpeg_scans",
    "dinomill.images.named",
    "dinomill.images.pillow_files",
    "dinomill.images.pixels",
    "dinomill.images.pnm",
    "dinomill.images.tiff",
    "dinomill.images.tiff_bytes",
    "dinomill.images.tiles",
    "dinomill.images.windows",
)
LIBRARIES = ("numpy", "pillow", "simplejpeg", "opencv-python-headless", "opencv-python", "tifffile", "imagecodecs")
