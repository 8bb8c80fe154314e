"""Kernels, replica exchange and the ladder, against closed forms.

`Linear` is a linear Gaussian model with a quadratic energy, written here apart from the package's twin:
z ~ N(0, I / (1 + c)), x | z ~ N(W z, s^2 I), so its power posteriors have precision (1 + c) I + t W'W / s^2.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from ladder_runs import run_ladder
from thermograd.errors import InputError
from thermograd.ladders.ladder import Ladder
from thermograd.ladders.sampler import LadderSampler
from thermograd.models.energy import EnergyNetwork
from thermograd.models.latent_ebm import LatentEBM
from thermograd.models.latent_model import LatentModel
from thermograd.models.linear_gaussian import LinearGaussian
from thermograd.samplers import named
from thermograd.samplers.kernel import Kernel, adapted_step_size, select
from thermograd.samplers.langevin import ULA
from thermograd.samplers.mala import MALA
from thermograd.samplers.prior import sample_prior
from thermograd.samplers.replica_exchange import RoundTrips, exchange, swap_probability
from thermograd.samplers.target import ChainState, Info, Target, chunks
from thermograd.testing.kernels import CONTRACTS

KERNELS = [ULA(0.2), MALA(0.5)]
assert {type(kernel) for kernel in KERNELS} == set(named.KERNELS.values())


class Linear(LatentModel):
    def __init__(self, weight: Tensor, noise_std: float, curvature: float):
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.latent_dim, self.base_std, self.image_shape = weight.shape[1], 1.0, (weight.shape[0],)
        self.noise_std, self.curvature = noise_std, curvature
        self.num_evaluated = 0

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        self.num_evaluated += z[..., 0].numel()
        constant = x.shape[-1] * math.log(2 * math.pi * self.noise_std**2) / 2
        return -(x - z @ self.weight.T).square().sum(-1) / (2 * self.noise_std**2) - constant

    def energy(self, z: Tensor) -> Tensor:
        return self.curvature * z.square().sum(-1) / 2

    def parameter_groups(self) -> dict[str, list[str]]:
        return {"prior": [], "generator": ["weight"]}

    def moments(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return means (K, B, d) and covariances (K, d, d) of the power posteriors."""
        weight = self.weight.detach()
        eye = torch.eye(self.latent_dim, dtype=weight.dtype)
        gram = weight.T @ weight / self.noise_std**2
        covariance = torch.linalg.inv((1 + self.curvature) * eye + t.view(-1, 1, 1) * gram)
        return t.view(-1, 1, 1) * (x @ weight / self.noise_std**2) @ covariance, covariance

    def draw(self, x: Tensor, t: Tensor, num_chains: int, generator: torch.Generator) -> Tensor:
        mean, covariance = self.moments(x, t)
        shape = (len(t), num_chains, len(x), self.latent_dim)
        noise = torch.randn(shape, generator=generator, dtype=x.dtype)
        return mean.unsqueeze(1) + noise @ torch.linalg.cholesky(covariance).mT.unsqueeze(1)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def linear(curvature: float = 0.5, num_images: int = 2) -> tuple[Linear, Tensor]:
    weight = torch.randn(4, 2, generator=seeded(1), dtype=torch.float64)
    x = torch.randn(num_images, 4, generator=seeded(2), dtype=torch.float64)
    return Linear(weight, 0.7, curvature), x


def prior_only(dim: int = 1) -> Linear:
    return Linear(torch.zeros(1, dim, dtype=torch.float64), 1.0, 0.0)


def temperatures(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def assert_mean(draws: Tensor, truth: Tensor | float, dim: int = 0, sigmas: float = 4.0) -> None:
    """Assert that independent draws have the stated mean within 4 standard errors, everywhere."""
    error = draws.std(dim) / math.sqrt(draws.shape[dim])
    z = (draws.mean(dim) - truth).abs() / error
    assert z.max() < sigmas, f"{float(z.max()):.2f} standard errors off"


def assert_moments(model: Linear, x: Tensor, t: Tensor, latents: Tensor) -> None:
    """Assert means and second moments of draws (K, M, B, d), independent along M, for each image and rung."""
    mean, covariance = model.moments(x, t)
    assert_mean(latents, mean, dim=1)
    centred = latents - mean.unsqueeze(1)
    products = centred.unsqueeze(-1) * centred.unsqueeze(-2)
    assert_mean(products, covariance.unsqueeze(1).expand(products[:, 0].shape), dim=1)


# ---- kernels ----


@pytest.mark.parametrize("step_size", [0.4, 1.0])
def test_ula_has_its_known_bias_on_a_normal(step_size):
    """ULA's stationary variance is 1 / (1 - h^2/4); fails if Langevin descends log p (mistake of IIB)."""
    generator = seeded(3)
    z = 2 * torch.randn(40_000, 1, generator=generator, dtype=torch.float64)
    num_steps = math.ceil(math.log(1e-4) / math.log(1 - step_size**2 / 2))
    draws = sample_prior(prior_only(), ULA(step_size), num_steps, z, generator).latents
    assert_mean(draws[:, 0].square(), 1 / (1 - step_size**2 / 4))
    assert_mean(draws[:, 0], 0.0)


@pytest.mark.parametrize("wrong", [False, True])
def test_opposite_noise_keeps_the_law_and_cuts_the_variance_of_a_pair_s_mean(wrong, monkeypatch):
    """On a normal law, far below the half that two chains of their own give; with equal noise it is not."""
    if wrong:
        right = torch.stack
        monkeypatch.setattr(
            torch, "stack", lambda parts, dim=0: right([parts[0], parts[0]] if dim == -3 else parts, dim)
        )
    twin = LinearGaussian.random(2, 4, 0.5, 0.7, 1)
    x = twin.sample_images(1, seeded(61)).detach().expand(4000, -1)
    t = torch.ones(1, dtype=torch.float64)
    exact = twin.power_posterior(x[:1], 1.0)
    start = twin.sample_power_posterior(x, t, 2, seeded(62))
    target, kernel, generator = Target(twin, x), MALA(0.3, antithetic=True), seeded(63)
    state = kernel.init(target, start)
    for _ in range(40):
        state, _ = kernel.step(target, state, t, generator)
    z, mean, covariance = (
        state.position[0].detach(),
        exact.mean.detach()[0],
        exact.covariance_matrix.detach().squeeze(),
    )
    for chain in z:
        error = (covariance.diagonal() / 4000).sqrt()
        assert ((chain.mean(0) - mean).abs() < 4 * error).all()
        assert ((chain.T.cov().diagonal() / covariance.diagonal() - 1).abs() < 4 * (2 / 4000) ** 0.5).all()
    ratio = float(z.mean(0).T.cov().trace() / covariance.trace())
    assert (ratio < 0.2) == (not wrong)


@pytest.mark.parametrize("step_size", [0.8, 1.4])
def test_mala_is_exact_on_a_normal(step_size):
    """MALA's stationary variance is 1 where ULA's is 1/(1 - h^2/4); fails with the ratio inverted (XSNL)."""
    generator = seeded(4)
    z = 2 * torch.randn(40_000, 1, generator=generator, dtype=torch.float64)
    draws = sample_prior(prior_only(), MALA(step_size), 60, z, generator)
    assert_mean(draws.latents[:, 0].square(), 1.0)
    assert_mean(draws.latents[:, 0].pow(4), 3.0)
    assert 0.3 < draws.acceptance < 0.97


def test_mala_leaves_a_skewed_density_invariant():
    """A non-quadratic energy shows a proposal density left out of the ratio; moments come from a grid."""

    class Skewed(Linear):
        def energy(self, z: Tensor) -> Tensor:
            return (torch.exp(1.5 * z) - 1.5 * z).sum(-1)

    model = Skewed(torch.zeros(1, 1, dtype=torch.float64), 1.0, 0.0)
    grid = torch.linspace(-8, 4, 20_001, dtype=torch.float64)
    mass = torch.softmax(model.log_prior(grid.unsqueeze(-1)), 0)
    generator = seeded(5)
    start = torch.randn(40_000, 1, generator=generator, dtype=torch.float64) / 2
    draws = sample_prior(model, MALA(0.7), 80, start, generator).latents[:, 0]
    for power in (1, 2, 3):
        assert_mean(draws.pow(power), float((mass * grid.pow(power)).sum()))


def test_mala_step_keeps_rejected_chains_whole():
    model, x = linear()
    target, t = Target(model, x), temperatures(0.3)[0]
    state = target.evaluate(torch.randn(5000, 2, 2, generator=seeded(6), dtype=torch.float64))
    new, info = MALA(1.0).step(target, state, t, seeded(7))
    moved = (new.position != state.position).any(-1)
    assert 0 < moved.sum() < moved.numel()
    for field, old, fresh in zip(ChainState._fields, new, state, strict=True):
        assert torch.equal(old[~moved], fresh[~moved]), field
    for field, cached, again in zip(ChainState._fields, new, target.evaluate(new.position), strict=True):
        torch.testing.assert_close(cached, again, msg=field)
    accepted = moved.double()
    error = (info.acceptance * (1 - info.acceptance)).sum().sqrt()
    assert (accepted.sum() - info.acceptance.sum()).abs() < 4 * error


def test_mala_rejects_where_the_density_is_not_finite():
    """A proposal out of the model's range counts as rejected and does not spoil the rung's step size."""

    class Walled(Linear):
        def energy(self, z: Tensor) -> Tensor:
            return torch.where(z > 0.5, torch.inf, 0.0 * z).sum(-1)

    model = Walled(torch.zeros(1, 1, dtype=torch.float64), 1.0, 0.0)
    draws = sample_prior(model, MALA(1.0), 50, -torch.ones(1000, 1, dtype=torch.float64), seeded(8))
    assert draws.latents.max() <= 0.5
    assert draws.latents.isfinite().all()
    assert 0 < draws.acceptance < 1


def test_a_ratio_that_is_not_a_number_is_a_rejection():
    model, x = linear()
    target = Target(model, x)
    state, proposal = (
        target.evaluate(torch.full((1000, 2, 2), value, dtype=torch.float64)) for value in (0.0, 1.0)
    )
    log_ratio = torch.zeros(1000, 2, dtype=torch.float64)
    log_ratio[:, 1] = math.nan
    new, info = MALA.accept(state, proposal, log_ratio, seeded(9))
    assert torch.equal(info.acceptance, torch.tensor([1.0, 0.0], dtype=torch.float64).expand(1000, 2))
    assert torch.equal(new.position[:, 0], proposal.position[:, 0])
    assert torch.equal(new.position[:, 1], state.position[:, 1])


@pytest.mark.parametrize("kernel", [ULA, MALA])
@pytest.mark.parametrize("step_size", [0.0, -0.1, math.nan, math.inf])
def test_step_size_must_be_positive(kernel, step_size):
    with pytest.raises(InputError, match="`step_size` must be positive"):
        kernel(step_size)


@dataclass(frozen=True)
class RandomWalk(Kernel):
    """A kernel from outside the package: random-walk Metropolis."""

    name: ClassVar[str] = "random-walk"
    target_acceptance: float | None = 0.3

    def step(
        self, target: Target, state: ChainState, t: Tensor, generator: torch.Generator
    ) -> tuple[ChainState, Info]:
        h = torch.as_tensor(self.step_size).unsqueeze(-1)
        noise = torch.randn(state.position.shape, generator=generator, dtype=torch.float64)
        proposal = target.evaluate(state.position + h * noise)
        log_ratio = proposal.log_density(t) - state.log_density(t)
        uniform = torch.rand(log_ratio.shape, generator=generator, dtype=torch.float64)
        return select(uniform.log() < log_ratio, proposal, state), Info(log_ratio.clamp(max=0).exp())


@pytest.mark.parametrize("kind", [MALA, RandomWalk])
def test_a_target_acceptance_outside_0_and_1_is_refused(kind: type[MALA | RandomWalk]):
    with pytest.raises(InputError, match=r"`target_acceptance` must lie between 0 and 1, got 1\.5"):
        kind(0.1, target_acceptance=1.5)


def test_a_kernel_derived_from_ula_steps_in_its_own_way_on_the_prior():
    class Still(ULA):
        def step(self, target, state, t, generator):
            return state, Info(torch.ones_like(state.log_prior))

    start = torch.randn(5, 1, generator=seeded(3), dtype=torch.float64)
    assert torch.equal(sample_prior(prior_only(), Still(0.4), 3, start, seeded(4)).latents, start)


@pytest.mark.parametrize("target", [0.3, None])
def test_the_step_sizes_of_any_kernel_with_a_target_acceptance_adapt(target: float | None):
    model, x = linear(num_images=64)
    sampler = LadderSampler(temperatures(0, 0.3, 1), RandomWalk(20.0, target))
    sampler, state = sampler.adapt(model, x, sampler.start(model, x, seeded(3)), 200, seeded(4))
    _, info = sampler.run(model, x, state, 100, seeded(5))
    if target is None:
        assert (info.acceptance < 0.05).all()
    else:
        torch.testing.assert_close(info.acceptance.mean(1), temperatures(0.3, 0.3, 0.3), atol=0.05, rtol=0)


def test_adaptation_moves_towards_the_target():
    sizes = adapted_step_size(temperatures(1.0, 1.0, 1.0), temperatures(0.3, 0.574, 0.9), 0.574, 0.5)
    assert sizes[0] < 1
    assert sizes[1] == 1
    assert sizes[2] > 1


# ---- replica exchange ----


def test_swap_probability_formula():
    log_likelihood = temperatures(-3.0, -1.0, -2.0).view(3, 1, 1)
    got = swap_probability(temperatures(0.0, 0.5, 1.0), log_likelihood).flatten()
    # (0 - 0.5)(-1 + 3) = -1; (0.5 - 1)(-2 + 1) = 0.5, so certain.
    torch.testing.assert_close(got, temperatures(math.exp(-1), 1.0))


def test_exchange_alone_keeps_every_rung_exact():
    """Exact draws stay exact under swaps alone; swaps with an inverted or missing ratio break the moments."""
    model, x = linear()
    t = temperatures(0.0, 0.1, 0.4, 1.0)
    generator = seeded(9)
    state = Target(model, x).evaluate(model.draw(x, t, 20_000, generator))
    swapped = 0
    for step in range(9):
        state, source, _ = exchange(state, t, step % 2, generator)
        swapped += int((source != torch.arange(4).view(-1, 1, 1)).sum())
    assert swapped > 100_000
    assert_moments(model, x, t, state.position)


def test_exchange_with_mala_keeps_every_rung_exact():
    model, x = linear()
    t = temperatures(0.0, 0.1, 0.4, 1.0)
    generator = seeded(10)
    initial = model.draw(x, t, 20_000, generator)
    ladder = run_ladder(
        model,
        x,
        t,
        MALA(0.6),
        20_000,
        10,
        initial,
        generator,
        exchange=True,
    )
    assert_moments(model, x, t, ladder.latents)
    assert ladder.round_trips is not None
    assert ladder.round_trips.double().mean() > 0


@pytest.mark.parametrize(("parity", "pairs"), [(0, [0, 2]), (1, [1, 3])])
def test_even_and_odd_pairs_swap_in_turn(parity, pairs):
    """With equal likelihoods every proposed pair swaps, and no other."""
    state = ChainState(*(torch.arange(5.0).view(5, 1, 1, 1) * torch.ones(5, 2, 3, 2) for _ in range(6)))
    state = state._replace(log_likelihood=torch.zeros(5, 2, 3))
    new, source, _ = exchange(state, torch.linspace(0, 1, 5), parity, seeded(11))
    wanted = list(range(5))
    for k in pairs:
        wanted[k], wanted[k + 1] = k + 1, k
    assert source[:, 0, 0].tolist() == wanted
    assert new.position[:, 1, 2, 0].tolist() == [float(k) for k in wanted]


@pytest.mark.parametrize("num_rungs", [2, 3, 6])
def test_states_cross_the_whole_ladder(num_rungs):
    """Each of K states makes a round trip every 2K swaps; none where odd swaps never fire (NEW)."""
    zeros = torch.zeros(num_rungs, 2, 1)
    state = ChainState(zeros.unsqueeze(-1), zeros, zeros, zeros, zeros.unsqueeze(-1), zeros.unsqueeze(-1))
    trips, only_even = RoundTrips(zeros), RoundTrips(zeros)
    for step in range(10 * 2 * num_rungs):
        trips.update(exchange(state, torch.linspace(0, 1, num_rungs), step % 2, seeded(step))[1])
        only_even.update(exchange(state, torch.linspace(0, 1, num_rungs), 0, seeded(step))[1])
    assert (trips.count >= 9 * num_rungs).all()
    assert (trips.count <= 10 * num_rungs).all()
    assert num_rungs == 2 or (only_even.count == 0).all()


def test_the_ladder_lets_both_parities_fire_and_reports_rates():
    """On hot rungs close together states travel up and down: odd swaps fire as well (mistake of NEW)."""
    model, x = linear()
    t = temperatures(0.0, 0.02, 0.05, 0.1, 1.0)
    ladder = run_ladder(model, x, t, MALA(0.5), 10, 200, "base", seeded(12), exchange=True)
    assert ladder.round_trips is not None
    assert ladder.round_trips.double().mean() >= 1
    assert ladder.swap_rates is not None
    assert ladder.swap_rates.shape == (4,)
    assert ladder.swap_rates[:3].min() > 0.5
    assert ladder.swap_rates.max() <= 1


def test_swaps_cost_no_evaluation():
    model, x = linear()
    t = temperatures(0.0, 0.3, 1.0)
    counts = []
    for swaps in (False, True):
        model.num_evaluated = 0
        ladder = run_ladder(model, x, t, MALA(0.5), 4, 10, "base", seeded(13), num_burn_in=5, exchange=swaps)
        counts.append(model.num_evaluated)
        assert ladder.num_evaluations * len(x) == model.num_evaluated
    assert counts[0] == counts[1] == 3 * 4 * len(x) * 16  # rungs x chains x images x (1 start + 15 steps)


# ---- the ladder ----


def test_power_posteriors_of_each_image_on_each_rung():
    """MALA alone reaches every image's own power posterior on every rung (KAEM gave each image one rung)."""
    model, x = linear()
    t = temperatures(0.0, 0.05, 0.3, 1.0)
    ladder = run_ladder(model, x, t, MALA(torch.tensor([0.9, 0.8, 0.6, 0.4])), 8000, 60, "base", seeded(14))
    assert ladder.latents.shape == (4, 8000, 2, 2)
    assert_moments(model, x, t, ladder.latents)
    torch.testing.assert_close(ladder.log_likelihood, model.log_likelihood(x, ladder.latents).detach())


def test_ula_ladder_has_ula_bias():
    """On a Gaussian, along an eigenvector of precision a, ULA's variance is 1/(a (1 - a h^2/4))."""
    model, x = linear()
    t = temperatures(0.0, 0.2, 1.0)
    ladder = run_ladder(model, x, t, ULA(0.3), 8000, 80, "base", seeded(15))
    mean, covariance = model.moments(x, t)
    eye = torch.eye(2, dtype=torch.float64)
    wanted = torch.linalg.inv(
        torch.linalg.inv(covariance) @ (eye - 0.3**2 / 4 * torch.linalg.inv(covariance))
    )
    centred = ladder.latents - mean.unsqueeze(1)
    products = centred.unsqueeze(-1) * centred.unsqueeze(-2)
    assert_mean(products, wanted.unsqueeze(1).expand(products[:, 0].shape), dim=1)


@pytest.mark.parametrize("kind", named.KERNELS.values(), ids=named.KERNELS)
@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda contract: contract.__name__)
def test_every_kernel_keeps_the_contract(contract, kind):
    contract(kind(0.4))


def test_same_generator_same_ladder():
    model, x = linear()
    t = temperatures(0.0, 0.2, 1.0)
    runs = [run_ladder(model, x, t, MALA(0.5), 3, 10, "base", seeded(s), exchange=True) for s in (1, 1, 2)]
    assert torch.equal(runs[0].latents, runs[1].latents)
    assert not torch.equal(runs[0].latents, runs[2].latents)


def test_adaptation_reaches_the_target_on_every_rung():
    model, x = linear()
    t = temperatures(0.0, 0.01, 0.1, 1.0)
    ladder = run_ladder(model, x, t, MALA(0.05), 200, 100, "base", seeded(18), num_burn_in=100)
    assert ladder.acceptance is not None
    assert ladder.step_sizes is not None
    assert (ladder.acceptance - 0.574).abs().max() < 0.04
    assert (ladder.step_sizes.diff() < 0).all()


def test_step_sizes_freeze_after_burning_in():
    model, x = linear()
    t = temperatures(0.0, 0.2, 1.0)
    sizes = [
        run_ladder(model, x, t, MALA(0.5), 3, steps, "base", seeded(19), num_burn_in=20).step_sizes
        for steps in (1, 50)
    ]
    assert torch.equal(sizes[0], sizes[1])
    none = run_ladder(model, x, t, MALA(0.5), 3, 50, "base", seeded(19)).step_sizes
    assert torch.equal(none, temperatures(0.5, 0.5, 0.5))


def test_start_from_the_base_distribution():
    model, x = linear()
    model.base_std = 3.0
    ladder = run_ladder(model, x, temperatures(0.0, 1.0), ULA(1e-6), 4000, 1, "base", seeded(20))
    assert_mean(ladder.latents.square(), 9.0, dim=1)


def test_start_from_prior_draws():
    model, x = linear()
    prior = torch.randn(5, 2, generator=seeded(21), dtype=torch.float64)
    ladder = run_ladder(
        model,
        x,
        temperatures(0.0, 1.0),
        ULA(1e-9),
        20,
        1,
        "prior",
        seeded(22),
        prior_latents=prior,
        bottom="shared",
    )
    distance = (ladder.latents.unsqueeze(-2) - prior).norm(dim=-1)
    assert distance.min(-1).values.max() < 1e-6
    assert set(distance.argmin(-1).flatten().tolist()) == set(range(5))


def test_annealed_start_climbs_rung_by_rung():
    """With steps too small to move, each rung begins where the one below ended; with many it is on target."""
    model, x = linear()
    t = temperatures(0.0, 0.05, 0.2, 1.0)
    still = run_ladder(model, x, t, ULA(1e-9), 3, 1, "annealed", seeded(23), num_start_steps=2)
    assert (still.latents - still.latents[:1]).abs().max() < 1e-6
    assert still.num_evaluations == 3 * (1 + 4 * 2 + 4)
    ladder = run_ladder(model, x, t, MALA(0.45), 8000, 1, "annealed", seeded(24), num_start_steps=40)
    assert_moments(model, x, t, ladder.latents)


def test_persistent_start_goes_on():
    model, x = linear()
    t = temperatures(0.0, 0.3, 1.0)
    initial = torch.randn(3, 4, 2, 2, generator=seeded(25), dtype=torch.float64)
    ladder = run_ladder(model, x, t, ULA(1e-9), 4, 1, initial, seeded(26))
    torch.testing.assert_close(ladder.latents, initial, rtol=0, atol=1e-6)


def test_trace_holds_every_step_after_burning_in():
    model, x = linear()
    ladder = run_ladder(
        model, x, temperatures(0.0, 0.3, 1.0), MALA(0.5), 4, 7, "base", seeded(27), num_burn_in=3
    )
    trace = ladder.trace
    assert trace.log_likelihood.shape == trace.energy.shape == (7, 3, 4, 2)
    assert torch.equal(trace.log_likelihood[-1], ladder.log_likelihood)
    assert torch.equal(trace.energy[-1], ladder.energy)
    assert (trace.log_likelihood.diff(dim=0) != 0).any()
    assert trace.latents is None


@pytest.mark.parametrize("swaps", [False, True])
def test_score_trace_belongs_to_each_rung(swaps):
    """After a swap a state's score is that of the rung where it stands now."""
    model, x = linear()
    t = temperatures(0.0, 0.1, 0.3, 1.0)
    ladder = run_ladder(model, x, t, MALA(0.5), 4, 9, "base", seeded(39), exchange=swaps, scores=True)
    assert ladder.trace.latents is not None
    assert ladder.trace.score is not None
    mean, covariance = model.moments(x, t)
    centred = mean.unsqueeze(1) - ladder.trace.latents
    wanted = centred @ torch.linalg.inv(covariance).unsqueeze(1)
    torch.testing.assert_close(ladder.trace.score, wanted)
    assert torch.equal(ladder.trace.latents[-1], ladder.latents)


def test_shared_prior_stands_for_the_lower_end():
    model, x = linear()
    prior = torch.randn(7, 2, generator=seeded(28), dtype=torch.float64)
    ladder = run_ladder(
        model,
        x,
        temperatures(0.0, 1.0),
        MALA(0.5),
        3,
        5,
        "base",
        seeded(29),
        bottom="shared",
        prior_latents=prior,
    )
    assert ladder.latents.shape == (1, 3, 2, 2)
    assert ladder.inverse_temperatures.tolist() == [1.0]
    assert ladder.num_rungs == 2
    assert not ladder.has_prior_rung
    assert ladder.num_evaluations == 3 * 6
    assert torch.equal(ladder.prior_half(0).prior_latents, prior[:3])
    assert torch.equal(ladder.prior_half(1).prior_latents, prior[3:6])


def test_prior_draws_are_dealt_out_as_the_lowest_rung():
    model, x = linear()
    t = temperatures(0.0, 0.3, 1.0)
    prior = torch.randn(3 * 2, 2, generator=seeded(30), dtype=torch.float64)
    model.num_evaluated = 0
    ladder = run_ladder(model, x, t, MALA(0.5), 3, 5, "base", seeded(31), bottom="dealt", prior_latents=prior)
    assert ladder.num_evaluations * 2 == model.num_evaluated == 2 * 3 * (2 * 6 + 1)
    assert torch.equal(ladder.latents[0].reshape(-1, 2), prior)
    torch.testing.assert_close(ladder.log_likelihood[0], model.log_likelihood(x, ladder.latents[0]).detach())
    assert ladder.inverse_temperatures.tolist() == t.tolist()
    assert ladder.has_prior_rung
    assert ladder.acceptance.shape == (3, 2)
    assert ladder.score_norm.shape == ladder.step_sizes.shape == (3,)


def test_chains_of_a_ladder():
    model, x = linear()
    ladder = run_ladder(model, x, temperatures(0.0, 1.0), MALA(0.5), 4, 2, "base", seeded(32))
    half = ladder.chains(slice(2))
    assert half.num_chains == 2
    assert torch.equal(half.latents, ladder.latents[:, :2])
    assert torch.equal(half.log_likelihood, ladder.log_likelihood[:, :2])


def tiny_ebm() -> tuple[LatentEBM, Tensor]:
    generator = seeded(33)
    network = nn.Sequential(nn.Linear(3, 12), nn.Tanh(), nn.Linear(12, 8), nn.Unflatten(1, (2, 2, 2)))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 3)
    energy = EnergyNetwork(3, (6,), "gelu", generator)
    model = LatentEBM(energy, network, latent_dim=3, image_shape=(2, 2, 2)).double()
    return model, torch.rand(5, 2, 2, 2, generator=generator, dtype=torch.float64) * 2 - 1


@pytest.mark.parametrize("chunk_size", [1, 3, 5, 7, 17, 1000])
def test_chunks_change_nothing(chunk_size):
    model, x = tiny_ebm()
    t = temperatures(0.0, 0.1, 0.4, 1.0)
    whole, parts = (
        run_ladder(model, x, t, MALA(0.2), 3, 5, "base", seeded(34), exchange=True, chunk_size=size)
        for size in (None, chunk_size)
    )
    torch.testing.assert_close(whole.latents, parts.latents, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(whole.log_likelihood, parts.log_likelihood, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("rows", "images", "size"), [(4, 5, 1), (4, 5, 7), (4, 5, 12), (1, 3, 2), (3, 1, 100)]
)
def test_chunks_cover_the_table_once_and_stay_small(rows, images, size):
    table = torch.zeros(rows, images)
    for row, column in chunks(rows, images, size):
        assert table[row, column].numel() <= size
        table[row, column] += 1
    assert (table == 1).all()


def test_evaluation_holds_the_scores_apart():
    """The two scores are the gradients of likelihood and prior, each without the other."""
    model, x = tiny_ebm()
    z = torch.randn(2, 4, 5, 3, generator=seeded(35), dtype=torch.float64, requires_grad=True)
    state = Target(model, x).evaluate(z.detach())
    (likelihood_score,) = torch.autograd.grad(model.log_likelihood(x, z).sum(), z)
    (prior_score,) = torch.autograd.grad(model.log_prior(z).sum(), z)
    torch.testing.assert_close(state.likelihood_score, likelihood_score)
    torch.testing.assert_close(state.prior_score, prior_score)
    torch.testing.assert_close(state.score(temperatures(0.4)[0]), 0.4 * likelihood_score + prior_score)
    torch.testing.assert_close(state.log_prior, model.log_prior(z).detach())
    torch.testing.assert_close(state.energy, model.energy(z).detach())


def test_prior_chains_reach_the_prior_and_cost_no_generator():
    model, _ = linear(curvature=1.5)
    draws = sample_prior(model, MALA(0.7), 60, torch.ones(10_000, 2, dtype=torch.float64), seeded(36))
    assert model.num_evaluated == 0
    assert_mean(draws.latents.square(), 1 / 2.5)
    assert_mean(draws.latents, 0.0)
    torch.testing.assert_close(draws.energy, model.energy(draws.latents))


# ---- bad input ----

GOOD = temperatures(0.0, 0.5, 1.0)
PRIOR = torch.zeros(4, 2, dtype=torch.float64)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inverse_temperatures": temperatures(0.0, 0.6, 0.5, 1.0)}, "`inverse_temperatures` must rise"),
        ({"inverse_temperatures": temperatures(0.1, 1.0)}, "must start at exactly 0"),
        ({"inverse_temperatures": temperatures(0.0, 0.9)}, "must end at exactly 1"),
        ({"inverse_temperatures": torch.zeros(2, 2, 2)}, r"must have shape \(K,\) or \(K, B\)"),
        ({"num_steps": 0}, "`num_steps` must be at least 1, got 0"),
        ({"num_chains": 0}, "`num_chains` must be at least 1, got 0"),
        ({"num_burn_in": -1}, "`num_steps` must not be negative, got -1"),
        ({"chunk_size": 0}, "`chunk_size` must be at least 1, got 0"),
        ({"kernel": MALA(torch.ones(2))}, r"must be one number or have shape \(3,\) or \(3, B\), got \(2,\)"),
        ({"kernel": MALA(-torch.ones(3))}, "`step_size` must be positive"),
        ({"at": "annealed", "num_start_steps": 0}, "`num_steps` must be at least 1, got 0"),
        ({"at": "anneal"}, "`at` must be base, prior, annealed, smc or latents, got 'anneal'"),
        ({"at": "prior"}, "`prior_latents` must be given"),
        (
            {"at": torch.zeros(2, 2, 2, 2)},
            r"`at` must be latents of shape \(3, 2, 2, 2\), got \(2, 2, 2, 2\)",
        ),
        ({"at": torch.zeros(1, 3, 2, 2, 2)}, r"got \(1, 3, 2, 2, 2\)"),
        ({"bottom": "top"}, "`bottom` must be chains, dealt or shared, got 'top'"),
        ({"bottom": "dealt", "prior_latents": PRIOR, "exchange": True}, "`exchange` excludes bottom 'dealt'"),
    ],
)
def test_bad_input(changes, message):
    """Every bad setting is refused in one line, before the model is evaluated once."""
    model, x = linear()
    arguments = {
        "inverse_temperatures": GOOD,
        "kernel": MALA(0.5),
        "num_chains": 2,
        "num_steps": 2,
        "at": "base",
        "generator": seeded(37),
        **changes,
    }
    with pytest.raises(InputError, match=message) as caught:
        run_ladder(model, x, **arguments)
    assert "\n" not in str(caught.value)
    assert model.num_evaluated == 0 or set(changes) & {"num_steps", "num_burn_in"}


@pytest.mark.parametrize(
    ("bottom", "prior", "message"),
    [
        ("shared", None, "`prior_latents` must be given for bottom 'shared', got None"),
        ("dealt", None, "`prior_latents` must be given for bottom 'dealt', got None"),
        ("dealt", PRIOR[:3], "`prior_latents` must hold 2 x 2 draws .* got 3"),
    ],
)
def test_draws_of_the_prior_that_the_bottom_needs(bottom, prior, message):
    model, x = linear()
    sampler = LadderSampler(GOOD, MALA(0.5), 2, bottom=bottom)
    state = sampler.start(model, x, seeded(37))
    spent = model.num_evaluated
    for verb in (sampler.run, sampler.trace):
        with pytest.raises(InputError, match=message):
            verb(model, x, state, 3, seeded(38), prior)
    assert model.num_evaluated == spent


BOTTOMS = [("chains", False), ("chains", True), ("dealt", False), ("shared", False), ("shared", True)]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("bottom", "swaps"), BOTTOMS)
@pytest.mark.parametrize("scores", [False, True])
def test_recording_changes_no_draw(kernel, bottom, swaps, scores):
    """`trace` gives the bytes and the cost of `run`, with and without scores, whatever stands at t = 0."""
    model, x = linear()
    sampler = LadderSampler(temperatures(0.0, 0.1, 0.4, 1.0), kernel, 2, swaps, bottom)
    state = sampler.start(model, x, seeded(40))
    ladder, info = sampler.run(model, x, state, 4, seeded(41), PRIOR)
    spent = model.num_evaluated
    again, same, trace = sampler.trace(model, x, state, 4, seeded(41), PRIOR, scores=scores)
    assert torch.equal(ladder.latents, again.latents)
    assert torch.equal(ladder.log_likelihood, again.log_likelihood)
    assert info.num_evaluations == same.num_evaluations
    assert torch.equal(info.acceptance, same.acceptance)
    assert len(trace.log_likelihood) == 4
    assert model.num_evaluated - spent == spent - 2 * sampler.num_running_rungs * len(x)


def test_going_on_from_a_state_is_one_long_run():
    model, x = linear()
    sampler = LadderSampler(temperatures(0.0, 0.1, 0.4, 1.0), MALA(0.5), 3, exchange=True)
    state = sampler.start(model, x, seeded(42))
    whole, whole_info = sampler.run(model, x, state, 7, seeded(43))
    generator = seeded(43)
    _, info = sampler.run(model, x, state, 3, generator)
    spent = model.num_evaluated
    parts, info = sampler.run(model, x, info.state, 4, generator)
    assert torch.equal(whole.latents, parts.latents)
    assert info.num_evaluations == whole_info.num_evaluations
    assert model.num_evaluated - spent == 4 * 4 * 3 * len(x)  # nothing is evaluated again


def test_temperatures_and_step_sizes_per_image():
    """Each image keeps its own ladder: what stands in another column of (K, B) changes nothing for it."""
    model, x = linear()
    t = torch.stack([temperatures(0.0, 0.05, 1.0), temperatures(0.0, 0.5, 1.0)], 1)
    sizes = torch.stack([temperatures(0.9, 0.8, 0.4), temperatures(0.9, 0.6, 0.5)], 1)
    both = run_ladder(model, x, t, MALA(sizes), 20_000, 40, "base", seeded(44), exchange=True)
    for image in range(2):
        alone = x[image : image + 1]
        mean, covariance = model.moments(alone, t[:, image])
        latents = both.latents[:, :, image : image + 1]
        assert_mean(latents, mean, dim=1)
        centred = latents - mean.unsqueeze(1)
        products = centred.unsqueeze(-1) * centred.unsqueeze(-2)
        assert_mean(products, covariance.unsqueeze(1).expand(products[:, 0].shape), dim=1)
    assert both.inverse_temperatures.shape == both.step_sizes.shape == (3, 2)


def test_step_sizes_per_image_follow_their_own_acceptance():
    model, x = linear()
    far = torch.stack([x[0], 40 * x[1]])
    t = temperatures(0.0, 0.1, 1.0)
    start = torch.full((3, 2), 0.3, dtype=torch.float64)
    found = []
    for images in (x, far):
        sampler = LadderSampler(t, MALA(start), 50)
        sampler, state = sampler.adapt(
            model, images, sampler.start(model, images, seeded(45)), 60, seeded(46)
        )
        _, info = sampler.run(model, images, state, 20, seeded(47))
        assert (info.acceptance - 0.574).abs().max() < 0.1
        found.append(info.step_sizes)
    assert torch.equal(found[0][:, 0], found[1][:, 0])  # the odd neighbour changed nothing


def test_states_of_a_visit_as_draws():
    model, x = linear()
    t = temperatures(0.0, 0.3, 1.0)
    found = run_ladder(model, x, t, MALA(0.5), 4, 5, "base", seeded(48), scores=True)
    draws = found.trace.as_draws()
    assert (draws.num_draws, draws.num_chains, draws.num_states) == (20, 4, 5)
    assert torch.equal(draws.latents.unflatten(1, (5, 4))[:, -1], found.ladder.latents)
    half = draws.chains(slice(2))
    assert (half.num_draws, half.num_chains) == (10, 2)
    assert torch.equal(half.latents, draws.latents.unflatten(1, (5, 4))[:, :, :2].flatten(1, 2))
    assert half.score is not None
    assert half.score.shape == half.latents.shape


def test_chains_that_never_move_are_told():
    model, x = linear()
    sampler = LadderSampler(temperatures(0.0, 1.0), MALA(temperatures(0.5, 1e4)), 3)
    _, info = sampler.run(model, x, sampler.start(model, x, seeded(49)), 20, seeded(50))
    assert info.moved[0].all()
    assert not info.moved[1].any()


def test_prior_chains_need_a_step():
    with pytest.raises(InputError, match="`num_steps` must be at least 1, got 0"):
        sample_prior(prior_only(), MALA(0.5), 0, torch.zeros(1, 1, dtype=torch.float64), seeded(38))


def test_ladder_is_frozen():
    ladder = Ladder(GOOD, torch.zeros(3, 1, 1, 2), torch.zeros(3, 1, 1), torch.zeros(3, 1, 1))
    with pytest.raises(AttributeError):
        ladder.latents = torch.ones(1)


@pytest.mark.parametrize("first_parity", [0, 1])
def test_the_first_pairs_to_swap_are_those_asked_for(first_parity: int):
    """Chains that hardly move show by where they stand which rungs swapped."""
    twin = LinearGaussian.random(2, 3, 0.5, 1.0, seed=0)
    start = torch.arange(4.0, dtype=torch.float64).view(4, 1, 1, 1).expand(4, 1, 64, 2) * 1e-6
    ladder = run_ladder(
        twin,
        torch.zeros(64, 3, dtype=torch.float64),
        torch.tensor([0, 1 / 3, 2 / 3, 1], dtype=torch.float64),
        ULA(1e-12),
        1,
        1,
        start,
        torch.Generator().manual_seed(1),
        exchange=True,
        first_parity=first_parity,
    )
    came_from = (ladder.latents[:, 0, :, 0] * 1e6).round().long()
    partners = {0: [1, 0, 3, 2], 1: [0, 2, 1, 3]}[first_parity]
    for rung, partner in enumerate(partners):
        assert set(came_from[rung].tolist()) <= {rung, partner}
    assert (came_from[2] == partners[2]).any()
