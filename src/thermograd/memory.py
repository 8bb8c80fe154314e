"""What memory this process holds, and how it treats what it frees."""

import ctypes
import sys

import torch


def peak_memory(device: torch.device) -> float | None:
    """Return the most memory that this process has held so far, in GiB: of the GPU if it uses one, else its own.

    None on platforms that do not tell.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)  # bytes there, KiB elsewhere


def keep_freed_memory() -> bool:
    """Let this process reuse freed memory instead of handing it back to the system after each large tensor.

    Fetching the pages anew took up to a quarter of the time of a step (docs/performance.md). The process then keeps its
    peak of memory until it ends. It changes no number.

    Returns:
        Whether the C library took the settings; only glibc on Linux has them.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library
        return False
    trim_threshold, mmap_threshold, largest = -1, -3, 2**30
    return bool(mallopt(trim_threshold, largest)) and bool(mallopt(mmap_threshold, largest))
