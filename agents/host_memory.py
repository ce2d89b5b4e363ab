"""What a training process does with memory that it has freed: keep it.

A step of training frees as many megabytes as the next one takes. glibc gives what is large, or lies last, back to the
system at once, which hands out the same pages again, zeroed, one fault at a time: a fifth of the time of ten compiled
members of `sac`.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h

KEPT_BYTES = 2**30
"""Freed memory that stays with the process."""

LARGE_BYTES = 2**25
"""What is larger goes back to the system alone: glibc allows no more."""


@cache
def keep_freed_memory() -> bool:
    """Have this process keep memory that it frees, up to `KEPT_BYTES`; return whether its allocator could be told.

    Other allocators than glibc's, such as a preloaded jemalloc, have their own ways.
    """
    if sys.platform != "linux":
        return False
    tell = getattr(ctypes.CDLL(None), "mallopt", None)  # of the C library; musl has none
    if tell is None:
        return False
    return bool(tell(M_TRIM_THRESHOLD, KEPT_BYTES) and tell(M_MMAP_THRESHOLD, LARGE_BYTES))
