"""The machine: its devices, the memory of this process, and what a reader must know of both."""

import ctypes
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from thermograd.errors import InputError
from thermograd.version import __version__


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


def total_memory(device: torch.device) -> int | None:
    """Return the bytes that a process may hold on a device: its memory, or what the system allows of it."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    limits = [_meminfo("MemTotal"), _cgroup("memory.max")]
    try:
        import resource

        soft = resource.getrlimit(resource.RLIMIT_AS)[0]
        limits.append(None if soft == resource.RLIM_INFINITY else soft)
    except ImportError:  # Windows
        pass
    return min((limit for limit in limits if limit is not None), default=None)


def available_memory(device: torch.device) -> int | None:
    """Return the bytes of a device that are free now; None on platforms that do not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    limit, used = _cgroup("memory.max"), _cgroup("memory.current")
    free = [_meminfo("MemAvailable"), None if limit is None or used is None else limit - used]
    return min((each for each in free if each is not None), default=None)


def _meminfo(name: str) -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:  # another system than Linux
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), None)


def _cgroup(name: str) -> int | None:
    try:
        return int((Path("/sys/fs/cgroup") / name).read_text())
    except (OSError, ValueError):  # no such group, or "max"
        return None


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


def resolve_device(name: str) -> torch.device:
    """Return the device that a config names; "auto" takes a GPU where there is one.

    Raises:
        InputError: an unknown device, or one that this machine lacks.
    """
    if name == "auto":
        return resolve_device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"`compute.device` must be auto, cpu, cuda or cuda:N, got {name!r}.") from None
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"`compute.device` must be auto, cpu, cuda or cuda:N, got {name!r}.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"`compute.device` {name!r} is not there: this machine has {torch.cuda.device_count()} GPUs."
        )
    if device.type == "cuda":
        # Convolutions in float32 as on a CPU, and the same numbers in each run.
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.deterministic = True
    return device


def environment(device: torch.device) -> dict[str, Any]:
    """Return versions, commit and machine: what a reader needs to make the numbers again."""
    names = ("torch", "numpy", "scipy", "torchmetrics", "safetensors", "pydantic")
    here = Path(__file__).parent
    try:
        asked = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False
        )
        commit = asked.stdout.strip() or None
    except OSError:  # a machine without git
        commit = None
    return {
        "thermograd": __version__,
        "commit": commit,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": processor_name(),
        "device": str(device),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "num_threads": torch.get_num_threads(),
        "packages": {name: metadata.version(name) for name in names},
        "command": sys.argv,
    }


def processor_name() -> str:
    """Return the processor's name, as the operating system gives it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
