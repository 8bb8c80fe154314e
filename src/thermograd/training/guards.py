"""The guards that stop a run with a clear cause, before a bad number reaches the weights."""

from collections.abc import Mapping

import torch
from torch import Tensor

from thermograd.errors import RunError
from thermograd.training.chains import Draws


def check_finite(name: str, values: Tensor, step: int) -> None:
    """Stop the run where a quantity is not finite.

    Raises:
        RunError: it is not; the message names it and the step.
    """
    if not torch.isfinite(values).all():
        raise RunError(f"The {name} is not finite at step {step}.")


def check_draws(draws: Draws, largest_latent: float, step: int) -> None:
    """Stop the run where what chains gave is not finite, or latents have become too long.

    Raises:
        RunError: the first quantity at fault, and the step.
    """
    ladder, prior = draws.ladder, draws.prior
    quantities = {"log-likelihood": ladder.log_likelihood, "energy": ladder.energy}
    latents = {"posterior latents": ladder.latents}
    if prior is not None:
        quantities["prior energy"], latents["prior latents"] = prior.energy, prior.latents
    for name, values in (quantities | latents).items():
        check_finite(name, values, step)
    for name, values in latents.items():
        if (length := float(values.norm(dim=-1).mean())) > largest_latent:
            raise RunError(
                f"The {name} exploded at step {step}: mean length {length:.3g}, "
                f"training.largest_latent {largest_latent:g}. A smaller step_size may help."
            )


def count_zero_gradients(
    counts: dict[str, int], gradient: Mapping[str, Tensor], limit: int, step: int
) -> None:
    """Count for each parameter the steps in a row that its gradient has been exactly zero.

    Raises:
        RunError: `limit` steps in a row; it is a parameter that does not learn.
    """
    for name, tensor in gradient.items():
        counts[name] = 0 if tensor.count_nonzero() else counts[name] + 1
        if counts[name] >= limit:
            raise RunError(
                f"The gradient of {name} has been exactly zero for {limit} steps, up to step {step}."
            )
