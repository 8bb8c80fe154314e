"""The contract of kernels, on a linear Gaussian model whose power posteriors are known."""

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from thermograd.ladders.sampler import LadderSampler
from thermograd.models.linear_gaussian import LinearGaussian
from thermograd.samplers.kernel import Kernel
from thermograd.samplers.target import ChainState, Target
from thermograd.testing.exact_ladders import seeded, worst_deviation
from thermograd.testing.expecting import expect, hold

Contract = Callable[[Kernel], None]
STEP_SIZE = 0.5
TEMPERATURES = torch.tensor([0.0, 0.2, 1.0], dtype=torch.float64)
NUM_CHAINS, NUM_STEPS = 5000, 20


def check_kernel(kernel: Kernel) -> None:
    """Hold a kernel to the contract: chains apart, cached values true, step sizes, and exactness where it claims it.

    A kernel that is not reversible, such as ULA, has another law than p_t and is not held to that.

    Args:
        kernel: of any step size; its other settings are held to the contract.

    Raises:
        AssertionError: a part of the contract does not hold; the sentence says which, and by how much.

    Example:
        >>> tg.testing.check_kernel(tg.MALA(0.3))
    """
    for contract in CONTRACTS:
        hold(_name(kernel), contract, kernel)


def _twin(num_images: int = 2) -> tuple[LinearGaussian, Tensor]:
    curvature = torch.tensor([[0.6, 0.3], [0.3, -0.3]], dtype=torch.float64)
    twin = LinearGaussian.random(2, 3, 0.7, 0.6, seed=1, energy_curvature=curvature)
    return twin, twin.sample_images(num_images, seeded(3)) * 1.3


def _sized(kernel: Kernel, step_size: float = STEP_SIZE) -> Kernel:
    return replace(kernel, step_size=step_size)


def _name(kernel: Kernel) -> str:
    return type(kernel).__name__


def _run(kernel: Kernel, x: Tensor, t: Tensor, num_steps: int, swaps: bool = False) -> Tensor:
    twin, _ = _twin()
    sampler = LadderSampler(t, kernel, 4, swaps)
    generator = seeded(16)
    return sampler.run(twin, x, sampler.start(twin, x, generator), num_steps, generator)[0].latents


def the_same_generator_gives_the_same_chains(kernel: Kernel) -> None:
    """All randomness comes in as the generator."""
    _, x = _twin()
    torch.manual_seed(0)
    first = _run(_sized(kernel), x, TEMPERATURES, 10)
    torch.manual_seed(1)
    expect(
        torch.equal(first, _run(_sized(kernel), x, TEMPERATURES, 10)),
        f"{_name(kernel)}: the same generator must give the same chains; draw from `generator` alone",
    )
    expect(
        bool((first.diff(dim=1).abs() > 0).any()),
        f"{_name(kernel)}: chains must differ, got equal ones",
    )


def another_image_changes_nothing(kernel: Kernel) -> None:
    """One image's chains do not depend on the other images of its batch."""
    _, x = _twin(3)
    other = x.clone()
    other[1] += 5.0
    for swaps in (False, True):
        found, wanted = (_run(_sized(kernel), images, TEMPERATURES, 30, swaps) for images in (other, x))
        expect(
            torch.allclose(found[:, :, [0, 2]], wanted[:, :, [0, 2]], rtol=1e-12, atol=1e-12),
            f"{_name(kernel)}: the chains of an image must not change with another image of the batch",
        )
        expect(
            bool((found[1:, :, 1] - wanted[1:, :, 1]).abs().max() > 1e-3),
            f"{_name(kernel)}: the chains of an image must change with the image itself",
        )


def another_rung_changes_nothing(kernel: Kernel) -> None:
    """Without exchange a rung's chains depend on its own temperature alone."""
    _, x = _twin()
    found, wanted = (
        _run(_sized(kernel), x, torch.tensor([0.0, middle, 1.0], dtype=torch.float64), 20)
        for middle in (0.1, 0.6)
    )
    expect(
        torch.allclose(found[[0, 2]], wanted[[0, 2]], rtol=1e-12, atol=1e-12),
        f"{_name(kernel)}: the chains of a rung must not change with the temperature of another rung",
    )


def states_hold_what_the_model_says(kernel: Kernel) -> None:
    """Densities and scores of a state are those of its position, also where a proposal was rejected."""
    twin, x = _twin()
    target, kernel = Target(twin, x), _sized(kernel, 1.0)
    start = torch.randn(3, 200, len(x), 2, generator=seeded(6), dtype=torch.float64)
    t = TEMPERATURES.view(-1, 1, 1)
    state, info = kernel.step(target, kernel.init(target, start), t, seeded(7))
    expect(
        state.position.shape == start.shape and info.acceptance.shape == start.shape[:-1],
        f"{_name(kernel)}: `step` must return positions {tuple(start.shape)} and acceptances "
        f"{tuple(start.shape[:-1])}, got {tuple(state.position.shape)} and {tuple(info.acceptance.shape)}",
    )
    expect(
        bool(((info.acceptance >= 0) & (info.acceptance <= 1)).all()),
        f"{_name(kernel)}: acceptances must be probabilities, got some outside [0, 1]",
    )
    again = target.evaluate(state.position)
    for field, cached, true in zip(ChainState._fields, state, again, strict=True):
        expect(
            torch.allclose(cached, true, rtol=1e-7, atol=1e-9),
            f"{_name(kernel)}: `{field}` of the new state must be that of its position",
        )
    last, _ = kernel.last_step(target, kernel.init(target, start), t, seeded(7))
    expect(
        torch.equal(last.position, state.position), f"{_name(kernel)}: `last_step` must go where `step` goes"
    )


def step_sizes_per_rung_are_those_of_each(kernel: Kernel) -> None:
    """A step size for each rung, (K, 1, 1), moves each rung as one number of that size would."""
    twin, x = _twin()
    target = Target(twin, x)
    start = torch.randn(2, 5, len(x), 2, generator=seeded(8), dtype=torch.float64)
    t, sizes = torch.full((2, 1, 1), 0.5, dtype=torch.float64), torch.tensor([0.1, 0.8], dtype=torch.float64)
    both = replace(kernel, step_size=sizes.view(-1, 1, 1))
    wanted = [
        one.step(target, one.init(target, start), t, seeded(9))[0].position[i]
        for i, one in enumerate(replace(kernel, step_size=float(size)) for size in sizes)
    ]
    found, _ = both.step(target, both.init(target, start), t, seeded(9))
    expect(
        torch.allclose(found.position, torch.stack(wanted), rtol=1e-9, atol=1e-12),
        f"{_name(kernel)}: step sizes (K, 1, 1) must move each rung by its own",
    )


def step_sizes_adapt_where_they_claim_it(kernel: Kernel) -> None:
    """With a target acceptance, adapting reaches it on every rung."""
    if kernel.target_acceptance is None:
        return
    twin, x = _twin(64)
    sampler = LadderSampler(TEMPERATURES, replace(kernel, step_size=0.05), 4)
    generator = seeded(18)
    sampler, state = sampler.adapt(twin, x, sampler.start(twin, x, generator), 300, generator)
    _, info = sampler.run(twin, x, state, 100, generator)
    found = info.acceptance.flatten(1).mean(1) if info.acceptance.dim() > 1 else info.acceptance
    expect(
        bool(((found - kernel.target_acceptance).abs() < 0.06).all()),
        f"{_name(kernel)}: adapted steps must be accepted with probability {kernel.target_acceptance}, "
        f"got {[round(value, 3) for value in found.tolist()]} on the rungs t = {TEMPERATURES.tolist()}",
    )


def a_reversible_kernel_keeps_exact_draws(kernel: Kernel) -> None:
    """Chains that begin at exact draws have the exact mean and covariance after any number of steps."""
    if not kernel.is_reversible:
        return
    twin, x = _twin()
    for size in (0.3, 1.0):
        sampler = LadderSampler(TEMPERATURES, replace(kernel, step_size=size), NUM_CHAINS)
        generator = seeded(19)
        exact = twin.sample_power_posterior(x, TEMPERATURES, NUM_CHAINS, generator)
        state = sampler.start(twin, x, generator, exact)
        ladder, _ = sampler.run(twin, x, state, NUM_STEPS, generator)
        law = twin.power_posterior(x, TEMPERATURES)
        centred = (ladder.latents - law.mean.unsqueeze(1)).transpose(0, 1)
        products = (centred.unsqueeze(-1) * centred.unsqueeze(-2)).flatten(1)
        covariance = law.covariance_matrix.expand(*centred.shape[1:], centred.shape[-1]).flatten()
        moments = torch.cat([centred.flatten(1), products], 1)
        truth = torch.cat([torch.zeros_like(centred[0].flatten()), covariance])
        away = worst_deviation(moments, truth)
        expect(
            away < 1,
            f"{_name(kernel)}: exact draws must stay exact, since it is_reversible; after {NUM_STEPS} steps of size "
            f"{size} their mean and covariance are {away:.1f} times as far off as chance allows",
        )


def infinite_walls_are_not_crossed(kernel: Kernel) -> None:
    """A reversible kernel rejects proposals whose density is not a number or 0."""
    if not kernel.is_reversible:
        return
    twin, x = _twin()

    class Walled(LinearGaussian):
        def energy(self, z: Tensor) -> Tensor:
            return super().energy(z) + torch.where(z > 0.5, torch.inf, 0.0 * z).sum(-1)

    walled = Walled(twin.weight.detach(), twin.bias.detach(), twin.noise_std)
    state = kernel.init(Target(walled, x), -torch.ones(200, len(x), 2, dtype=torch.float64))
    for _ in range(20):
        state, _ = kernel.step(Target(walled, x), state, torch.ones(1, 1, dtype=torch.float64), seeded(20))
    inside = state.position.isfinite().all() and state.position.max() <= 0.5 + math.ulp(1.0)
    expect(bool(inside), f"{_name(kernel)}: a proposal of density 0 must be rejected, got chains outside")


CONTRACTS: tuple[Contract, ...] = (
    the_same_generator_gives_the_same_chains,
    another_image_changes_nothing,
    another_rung_changes_nothing,
    states_hold_what_the_model_says,
    step_sizes_per_rung_are_those_of_each,
    a_reversible_kernel_keeps_exact_draws,
    infinite_walls_are_not_crossed,
    step_sizes_adapt_where_they_claim_it,
)
"""What every kernel keeps."""
