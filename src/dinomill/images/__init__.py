"""The data plane: manifest, shards, decoding, crops, masks, deterministic sampling.

What Pillow and tifffile say of a damaged file does not name it, and comes from any of the processes that read: it is
not shown. A file that cannot be used is said with its name, by who asked for it.
"""

import logging
import warnings

warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)
