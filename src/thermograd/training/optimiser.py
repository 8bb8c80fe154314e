r"""The optimiser of a run, which climbs: torch's, or an Adam whose second moments come from another gradient.

Noise that is added to the gradient on purpose would shorten Adam's steps. `CleanAdam` takes the second moments from the
gradient without it:

    m <- b1 m + (1 - b1) g,    v <- b2 v + (1 - b2) g_clean^2,    θ <- θ + lr m̂ / (sqrt(v̂) + eps)

References:
    Kingma and Ba (2015), Adam: a method for stochastic optimization.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from thermograd.config.schema import LearningConfig

Tensors = Mapping[str, Tensor]


class CleanAdam(torch.optim.Optimizer):
    """Adam, climbing, with second moments from `clean`; a parameter without a gradient stays where it is.

    Args:
        params: as torch's optimisers take them.
        lr: learning rate.
        betas: decay of first and second moments.
        eps: added to the root of the second moment.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})
        self.clean: Mapping[Any, Tensor] = {}

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Move the parameters up their gradients; `clean` holds the gradient of each for the second moments."""
        for group in self.param_groups:
            b1, b2 = group["betas"]
            for parameter in group["params"]:
                state, gradient = self.state[parameter], parameter.grad
                if gradient is None:
                    continue
                if not state:
                    state |= {"step": torch.tensor(0.0)}
                    state |= {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
                state["step"] += 1
                clean, count = self.clean[parameter], float(state["step"])
                state["exp_avg"].lerp_(gradient, 1 - b1)
                state["exp_avg_sq"].mul_(b2).addcmul_(clean, clean, value=1 - b2)
                root = (state["exp_avg_sq"] / (1 - b2**count)).sqrt_().add_(group["eps"])
                parameter.addcdiv_(state["exp_avg"], root, value=group["lr"] / (1 - b1**count))


def make_optimiser(config: LearningConfig, groups: Mapping[str, Tensors]) -> torch.optim.Optimizer:
    """Return the optimiser that a config names, one group of parameters for each network."""
    settings = config.optimiser
    rates = {"prior": settings.prior_lr, "generator": settings.generator_lr}
    params = [
        {"name": name, "params": list(tensors.values()), "lr": rates[name], "initial_lr": rates[name]}
        for name, tensors in groups.items()
        if tensors
    ]
    if settings.kind == "sgd":
        return torch.optim.SGD(params, maximize=True)
    if config.gradient.clean_second_moments:
        return CleanAdam(params, betas=settings.betas)
    return torch.optim.Adam(params, betas=settings.betas, maximize=True, fused=True)


def moving_average(decay: float) -> Callable[..., None]:
    """Return the rule of an exponential moving average of weights, for `AveragedModel`.

    After n updates the decay is min(decay, (1 + n) / (10 + n)), so that a young average forgets the weights that
    training began with.
    """

    @torch.no_grad()
    def update(averages: Sequence[Tensor], weights: Sequence[Tensor], num_averaged: Tensor | int) -> None:
        count = float(num_averaged)
        share = 1 - min(decay, (1 + count) / (10 + count))
        for average, weight in zip(averages, weights, strict=True):
            average.lerp_(weight, share)

    return update


def optimiser_tensors(optimiser: torch.optim.Optimizer, names: Mapping[Any, str]) -> dict[str, Tensor]:
    """Return an optimiser's state by "parameter/quantity", so that a checkpoint holds tensors alone."""
    return {
        f"{names[parameter]}/{quantity}": value
        for parameter, state in optimiser.state.items()
        for quantity, value in state.items()
        if isinstance(value, Tensor)
    }


def load_optimiser_tensors(
    optimiser: torch.optim.Optimizer, names: Mapping[Any, str], tensors: Tensors
) -> None:
    """Give an optimiser back what `optimiser_tensors` returned."""
    parameters = {name: parameter for parameter, name in names.items()}
    for key, value in tensors.items():
        name, _, quantity = key.rpartition("/")
        parameter = parameters[name]
        # Counters stay where the optimiser keeps them; moments lie with their parameter.
        optimiser.state[parameter][quantity] = value.to(parameter.device) if value.dim() else value
