"""Memory that is asked for again and again: kept by the process, not given back to the system each time.

A network's feature maps are some megabytes each. The C library hands such pieces back to the system when they are freed
and fetches fresh, zeroed pages for the next: EfficientNet-Lite0 at 224 pixels took 1,700 page faults an image, a sixth
of its CPU time (17.1 ms an image, 14.4 without them).
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # names of mallopt, from malloc.h
_LARGEST = 32 << 20  # bytes; of more the C library takes no notice
_KEPT = 256 << 20  # bytes that may lie idle


@cache
def reuse_memory() -> bool:
    """Let this process keep up to 256 MB of what it frees; whether that is possible here (glibc only)."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        library = ctypes.CDLL(None)
        return bool(library.mallopt(_MMAP_THRESHOLD, _LARGEST) and library.mallopt(_TRIM_THRESHOLD, _KEPT))
    except (OSError, AttributeError):  # another C library
        return False
