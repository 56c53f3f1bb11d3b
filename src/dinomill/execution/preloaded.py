"""What the workers' server imports before it forks them, once and not once a worker.

Two seconds and 117 MB a worker for torch; 0.4 s for the others, of which pandas, which pyarrow imports with the first
list that becomes a column, takes half.
"""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module

from PIL import Image

for _name in ("torch", "cv2", "pandas", "pyarrow.dataset"):
    with suppress(ImportError):  # what is missing is said by the task that needs it
        import_module(_name)
Image.init()  # Pillow's formats
