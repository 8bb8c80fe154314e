"""Kernels by the names that a config gives them."""

from torch import Tensor

from thermograd.config import names
from thermograd.config.tables import Made
from thermograd.samplers.kernel import Kernel
from thermograd.samplers.langevin import ULA
from thermograd.samplers.mala import MALA

KERNELS: Made[type[Kernel]] = Made(names.KERNELS, {kind.name: kind for kind in (ULA, MALA)})
"""Every kernel that a config can name."""


def make_kernel(name: str, step_size: float | Tensor) -> Kernel:
    """Return a kernel by its name.

    Raises:
        InputError: an unknown name, or a step size that is not positive.
    """
    return KERNELS[names.KERNELS.check(name, "kernel")](step_size)
