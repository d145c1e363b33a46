"""Python's collector of reference cycles, in a process that serves."""

import gc
from typing import Final

_YOUNG_OBJECTS: Final = 20_000


def settle() -> None:
    """Leave what lives now out of all later collections, and let these come seldom; to be called when set up.

    A collection stops the process, and so every stream, the longer the more objects there are: most are what imports
    and set-up leave. A step's outputs alone would begin one of the youngest.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS, *gc.get_threshold()[1:])
