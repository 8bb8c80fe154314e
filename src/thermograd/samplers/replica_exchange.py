r"""Replica exchange: neighbouring rungs of one image's ladder propose to swap their states.

States at t_i < t_j swap with probability min(1, exp((t_i - t_j)(l_j - l_i))), which leaves the product of the
power posteriors invariant. The state caches likelihood and prior apart, so a swap costs no evaluation.

References:
    Geyer (1991), Markov chain Monte Carlo maximum likelihood.
    Calderhead, Girolami (2009), Estimating Bayes factors via thermodynamic integration and population MCMC.
    Syed, Bouchard-Côté, Deligiannidis, Doucet (2022), Non-reversible parallel tempering. JRSS B.
"""

import torch
from torch import Tensor

from thermograd.samplers.target import ChainState, columns


def swap_probability(inverse_temperatures: Tensor, log_likelihood: Tensor) -> Tensor:
    """Return min(1, exp((t_k - t_{k+1})(l_{k+1} - l_k))) for each pair of neighbours, (K - 1, M, B)."""
    t = inverse_temperatures if inverse_temperatures.dim() == 3 else columns(inverse_temperatures)
    gap = t[:-1] - t[1:]
    return (gap * (log_likelihood[1:] - log_likelihood[:-1])).clamp(max=0).exp()


def exchange(
    state: ChainState, inverse_temperatures: Tensor, parity: int, generator: torch.Generator
) -> tuple[ChainState, Tensor, Tensor]:
    """Propose to swap the pairs (k, k + 1) with k of one parity.

    Even and odd pairs must alternate from call to call, so that a state can cross the whole ladder.

    Args:
        state: chains on rungs, leading axes (K, M, B).
        inverse_temperatures: (K,), (K, B), or as a column (K, 1, 1) or (K, 1, B).
        parity: 0 for the pairs (0, 1), (2, 3), ...; 1 for (1, 2), (3, 4), ...
        generator: the source of the uniforms.

    Returns:
        The new state; the permutation (K, M, B) that was applied, which says where each state came from; and
        the swap probability of every pair (K - 1, M, B), proposed or not.
    """
    probability = swap_probability(inverse_temperatures, state.log_likelihood)
    uniform = torch.rand(
        probability.shape, generator=generator, dtype=probability.dtype, device=probability.device
    )
    lower = torch.arange(len(inverse_temperatures) - 1, device=probability.device)
    proposed = (lower % 2 == parity).view(-1, 1, 1)
    swapped = (uniform < probability) & proposed
    source = torch.arange(len(inverse_temperatures), device=probability.device).view(-1, 1, 1)
    source = source.repeat(1, *probability.shape[1:])
    source[:-1] += swapped.long()
    source[1:] -= swapped.long()
    return ChainState(*(permute_rungs(field, source) for field in state)), source, probability


def permute_rungs(field: Tensor, source: Tensor) -> Tensor:
    """Return the field (K, M, B, ...) with rung k taken from rung source[k, m, b]."""
    index = source.view(source.shape + (1,) * (field.dim() - source.dim())).expand_as(field)
    return field.gather(0, index)


class RoundTrips:
    """Counts how often states travel from the prior to the posterior and back, for each ladder (m, b).

    Args:
        source: any tensor (K, M, B); its shape and device are taken.
    """

    def __init__(self, source: Tensor):
        self._heading = torch.zeros_like(source, dtype=torch.long)  # 1 after the bottom, 2 after the top
        self._heading[0] = 1
        self.count = torch.zeros(source.shape[1:], dtype=torch.long, device=source.device)

    def update(self, source: Tensor) -> None:
        """Follow the states through one exchange."""
        self._heading = self._heading.gather(0, source)
        self.count += self._heading[0] == 2
        self._heading[0] = 1
        top = self._heading[-1]
        self._heading[-1] = torch.where(top == 1, 2, top)
