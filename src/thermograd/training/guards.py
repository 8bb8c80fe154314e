"""The guards that stop a run with a clear cause, before a bad number reaches the weights."""

from collections.abc import Mapping

import torch
from torch import Tensor

from thermograd.errors import RunError
from thermograd.models.latent_model import LatentModel
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


def energy_constants(model: LatentModel) -> set[str]:
    """Return the parameters that only add a constant to the energy, such as the bias of a last layer.

    They cancel out of the prior, so their gradient is rightly 0: that of E is the same at any two latents.
    """
    parameters = dict(model.named_parameters())
    names = model.parameter_groups()["prior"]
    z = model.sample_base((2,), torch.Generator(next(model.parameters()).device).manual_seed(0))
    found = []
    for row in z:
        energy = model.energy(row.unsqueeze(0)).sum()
        if not energy.requires_grad:
            return set()
        found.append(torch.autograd.grad(energy, [parameters[name] for name in names], allow_unused=True))
    return {
        name
        for name, one, other in zip(names, *found, strict=True)
        if one is not None and other is not None and torch.equal(one, other)
    }


def count_zero_gradients(
    counts: dict[str, int], gradient: Mapping[str, Tensor], limit: int, step: int
) -> None:
    """Count for each parameter the steps in a row that its gradient has been exactly zero.

    Raises:
        RunError: `limit` steps in a row; it is a parameter that does not learn.
    """
    for name in counts:
        if name not in gradient:  # this update is not of it
            continue
        counts[name] = 0 if gradient[name].count_nonzero() else counts[name] + 1
        if counts[name] >= limit:
            raise RunError(
                f"The gradient of {name} has been exactly zero for {limit} steps, up to step {step}."
            )
