"""Kernels by the names that a config gives them."""

from torch import Tensor

from thermograd.errors import InputError, nearest
from thermograd.samplers.kernel import Kernel
from thermograd.samplers.langevin import ULA
from thermograd.samplers.mala import MALA

KERNELS: dict[str, type[Kernel]] = {kind.name: kind for kind in (ULA, MALA)}
"""Every kernel that a config can name."""


def make_kernel(name: str, step_size: float | Tensor) -> Kernel:
    """Return a kernel by its name.

    Raises:
        InputError: an unknown name, or a step size that is not positive.
    """
    if name not in KERNELS:
        raise InputError(f"`kernel` {name!r} is not known{nearest(name, sorted(KERNELS))}")
    return KERNELS[name](step_size)
