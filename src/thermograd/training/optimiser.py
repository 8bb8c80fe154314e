r"""Optimisers that climb a gradient given by name.

They differ from `torch.optim` in one point that this program needs: Adam's second moments may come from another
gradient than its first. So noise that is added to the gradient on purpose does not shorten the steps:

    m <- b1 m + (1 - b1) g,    v <- b2 v + (1 - b2) g_clean^2,    θ <- θ + lr m̂ / (sqrt(v̂) + eps)

References:
    Kingma and Ba (2015), Adam: a method for stochastic optimization.
"""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

Tensors = Mapping[str, Tensor]


class Optimiser(Protocol):
    """What training needs of an optimiser."""

    def step(self, gradient: Tensors, lr: float, clean_gradient: Tensors | None = None) -> Tensor:
        """Move the parameters up the gradient; return the length of the move."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Return all that a resumed run needs."""
        ...

    def load_state(self, tensors: Tensors) -> None:
        """Take back what `state` returned."""
        ...


class Adam:
    """Adam, climbing.

    Args:
        parameters: tensors to move, in place.
        betas: decay of first and second moments.
        eps: added to the root of the second moment.
    """

    def __init__(self, parameters: Tensors, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8):
        self.parameters, self.betas, self.eps = dict(parameters), betas, eps
        self.num_steps = 0
        self.first = {name: torch.zeros_like(p, requires_grad=False) for name, p in self.parameters.items()}
        self.second = {name: torch.zeros_like(p, requires_grad=False) for name, p in self.parameters.items()}

    @torch.no_grad()
    def step(self, gradient: Tensors, lr: float, clean_gradient: Tensors | None = None) -> Tensor:
        """Move the parameters up the gradient; return the length of the move.

        Args:
            gradient: by name, for the first moments.
            lr: learning rate.
            clean_gradient: by name, for the second moments; None for `gradient` itself.
        """
        clean_gradient = gradient if clean_gradient is None else clean_gradient
        self.num_steps += 1
        first_scale = 1 / (1 - self.betas[0] ** self.num_steps)
        second_scale = 1 / (1 - self.betas[1] ** self.num_steps)
        squared_length = torch.zeros(())
        for name, parameter in self.parameters.items():
            first, second = self.first[name], self.second[name]
            first.lerp_(gradient[name], 1 - self.betas[0])
            second.mul_(self.betas[1]).addcmul_(
                clean_gradient[name], clean_gradient[name], value=1 - self.betas[1]
            )
            move = first / (second * second_scale).sqrt_().add_(self.eps) * (lr * first_scale)
            parameter.add_(move)
            squared_length = squared_length.to(move.device) + move.square().sum()
        return squared_length.sqrt()

    def state(self) -> dict[str, Tensor]:
        """Return both moments and the number of steps."""
        tensors = {f"first.{name}": tensor for name, tensor in self.first.items()}
        tensors |= {f"second.{name}": tensor for name, tensor in self.second.items()}
        return tensors | {"num_steps": torch.tensor(self.num_steps)}

    def load_state(self, tensors: Tensors) -> None:
        """Take back what `state` returned."""
        self.num_steps = int(tensors["num_steps"])
        for name in self.parameters:
            self.first[name].copy_(tensors[f"first.{name}"])
            self.second[name].copy_(tensors[f"second.{name}"])


class SGD:
    """Plain stochastic gradient ascent: θ <- θ + lr g. It has no state.

    Args:
        parameters: tensors to move, in place.
    """

    def __init__(self, parameters: Tensors):
        self.parameters = dict(parameters)

    @torch.no_grad()
    def step(self, gradient: Tensors, lr: float, clean_gradient: Tensors | None = None) -> Tensor:
        """Move the parameters up the gradient; return the length of the move."""
        squared_length = torch.zeros(())
        for name, parameter in self.parameters.items():
            parameter.add_(gradient[name], alpha=lr)
            squared_length = squared_length.to(parameter.device) + (lr * gradient[name]).square().sum()
        return squared_length.sqrt()

    def state(self) -> dict[str, Tensor]:
        """Return nothing: there is no state."""
        return {}

    def load_state(self, tensors: Tensors) -> None:
        """Take back nothing."""
