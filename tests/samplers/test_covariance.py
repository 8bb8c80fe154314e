"""Covariances of proposals: learnt from pairs, and MALA with one is as exact as without."""

import pytest
import torch
from test_samplers import Linear, assert_moments, linear, seeded, temperatures
from torch import Tensor

from thermograd.errors import InputError
from thermograd.ladders.diagnostics import effective_sample_size
from thermograd.ladders.sampler import LadderSampler
from thermograd.samplers.covariance import base_covariance, factor_of, learn_from_chains, learnt_covariance
from thermograd.samplers.langevin import ULA
from thermograd.samplers.mala import MALA
from thermograd.samplers.target import Target


def precision(dim: int, num: int, seed: int = 0) -> Tensor:
    """Return matrices (num, dim, dim) whose eigenvalues lie between 1 and 100."""
    vectors, _ = torch.linalg.qr(torch.randn(num, dim, dim, generator=seeded(seed), dtype=torch.float64))
    values = torch.logspace(0, 2, dim, dtype=torch.float64)
    return (vectors * values) @ vectors.mT


def test_a_pair_is_met_exactly_at_gain_1_and_the_rest_stays_positive():
    p = precision(5, 20)
    move = torch.randn(20, 5, generator=seeded(1), dtype=torch.float64)
    change = (p @ move.unsqueeze(-1)).squeeze(-1)
    begin = torch.eye(5, dtype=torch.float64).expand(20, 5, 5)
    found = learnt_covariance(begin, move, change, gain=1.0)
    torch.testing.assert_close((found @ change.unsqueeze(-1)).squeeze(-1), move)
    torch.testing.assert_close(found, found.mT)
    half = learnt_covariance(begin, move, change, gain=0.5)
    torch.testing.assert_close(half, (begin + found) / 2)
    assert (torch.linalg.eigvalsh(half) > 0).all()


@pytest.mark.parametrize("base_std", [1.0, 2.0])
def test_many_pairs_tell_the_covariance(base_std):
    """On a Gaussian, moves as the learnt covariance proposes them: the condition number falls from 100 to near 1."""
    p, generator = precision(6, 30) / base_std**2, seeded(2)
    covariance = base_covariance(torch.zeros(30, 6, dtype=torch.float64), base_std)
    assert torch.equal(covariance[3], base_std**2 * torch.eye(6, dtype=torch.float64))
    for _ in range(60):
        noise = torch.randn(30, 6, 1, generator=generator, dtype=torch.float64)
        move = (factor_of(covariance) @ noise).squeeze(-1)
        covariance = learnt_covariance(covariance, move, (p @ move.unsqueeze(-1)).squeeze(-1), 0.4, base_std)
    left = torch.linalg.eigvals(covariance @ p).real
    assert (left.amax(-1) / left.amin(-1)).median() < 2
    torch.testing.assert_close(left.mean(), torch.tensor(1.0, dtype=torch.float64), rtol=0.2, atol=0)


@pytest.mark.parametrize(
    "change", [[-1.0, 0.0], [0.1, 0.0], [0.0, 5.0], [float("nan"), 1.0], [float("inf"), 1.0], [1.0, 1e4]]
)
def test_pairs_that_cannot_be_a_posteriors_are_left_out(change):
    """Negative and small curvature, no curvature along the move, what is not finite, and what would widen C."""
    begin = torch.eye(2, dtype=torch.float64)
    move = torch.tensor([1.0, 0.0], dtype=torch.float64)
    assert torch.equal(learnt_covariance(begin, move, torch.tensor(change, dtype=torch.float64), 1.0), begin)


def test_a_covariance_that_rounding_spoilt_has_a_plain_factor():
    spoilt = torch.tensor([[[1.0, 2.0], [2.0, 1.0]], [[4.0, 0.0], [0.0, 1.0]]])
    found = factor_of(spoilt)
    assert torch.equal(found[0], torch.eye(2))
    assert torch.equal(found[1], torch.diag(torch.tensor([2.0, 1.0])))


def moved(kernel: MALA, num_steps: int = 12) -> tuple[Linear, Tensor, Tensor, Tensor]:
    """Return exact draws of the power posteriors after some steps of a kernel."""
    model, x = linear()
    t = temperatures(0.3, 1.0)
    start = model.draw(x, t, 8000, seeded(3))
    target, generator = Target(model, x), seeded(4)
    state = kernel.init(target, start)
    for _ in range(num_steps):
        state, _ = kernel.step(target, state, t.view(-1, 1, 1), generator)
    return model, x, t, state.position


FACTOR = torch.tensor([[0.3, 0.0], [0.5, 1.2]], dtype=torch.float64)


@pytest.mark.parametrize("step_size", [0.5, 1.0])
def test_mala_with_any_covariance_leaves_power_posteriors_invariant(step_size):
    assert_moments(*moved(MALA(step_size, factor=FACTOR)))


@pytest.mark.parametrize("mistake", ["factor", "drift"])
def test_a_proposal_density_without_its_factor_or_drift_is_seen(mistake, monkeypatch):
    """The mistakes that leave MALA with a covariance wrong, put in."""
    right = MALA._log_proposal_ratio

    def plain(self, noise, move, score):
        return right(self, noise, (self.factor @ move.unsqueeze(-1)).squeeze(-1), score)

    def drift(self, noise, move, score):
        return right(self, noise, move, 0 * score)

    monkeypatch.setattr(MALA, "_log_proposal_ratio", {"factor": plain, "drift": drift}[mistake])
    with pytest.raises(AssertionError):
        assert_moments(*moved(MALA(1.0, factor=FACTOR)))


def narrow() -> tuple[Linear, Tensor]:
    """Return a model whose posterior has a condition number of about 60 in 4 dimensions."""
    scales = torch.tensor([3.0, 1.0, 0.3, 0.05], dtype=torch.float64)
    weight = torch.linalg.qr(torch.randn(6, 4, generator=seeded(5), dtype=torch.float64))[0] * scales
    return Linear(weight, 0.4, 0.0), torch.randn(3, 6, generator=seeded(6), dtype=torch.float64)


def test_adapting_learns_a_covariance_per_rung_and_image_that_pays():
    """The same evaluations are worth several times as many draws, and means stay those of the posterior."""
    model, x = narrow()
    t = temperatures(0.0, 0.1, 1.0)
    worth = {}
    for precondition in (False, True):
        kernel = MALA(torch.full((3, 3), 0.1, dtype=torch.float64))
        sampler, generator = LadderSampler(t, kernel, num_chains=4), seeded(7)
        state = sampler.start(model, x, generator)
        sampler, state = sampler.adapt(model, x, state, 150, generator, precondition=precondition)
        _, _, trace = sampler.trace(model, x, state, 400, generator, scores=True)
        assert trace.latents is not None
        last = trace.latents[:, -1]
        size = effective_sample_size(last)
        worth[precondition] = float(size.min())
        mean, _ = model.moments(x, t)
        error = last.std((0, 1)) / size.sqrt()
        assert ((last.mean((0, 1)) - mean[-1]).abs() < 4.5 * error).all()
    assert sampler.kernel.factor is not None
    assert sampler.kernel.factor.shape == (3, 3, 4, 4)
    assert worth[True] > 4 * worth[False]


def test_pairs_are_kept_where_asked_for_and_learning_from_chains_takes_each():
    model, x = narrow()
    sampler = LadderSampler(temperatures(0.0, 1.0), MALA(0.2), 2, bottom="shared", keep_pairs=True)
    generator = seeded(8)
    state = sampler.start(model, x, generator)
    prior = model.sample_base((4,), generator)
    _, info = sampler.run(model, x, state, 3, generator, prior)
    assert len(info.pairs) == 3
    precision = torch.linalg.inv(model.moments(x, temperatures(1.0))[1])
    for move, change in info.pairs:
        assert move.shape == (1, 2, 3, 4)
        torch.testing.assert_close(change, move @ precision[0])  # the model is linear
    begin = base_covariance(move[:, 0], 1.0)
    one_by_one = begin
    for move, change in info.pairs:
        for m in range(2):
            one_by_one = learnt_covariance(one_by_one, move[:, m], change[:, m], 0.4)
    assert torch.equal(learn_from_chains(begin, info.pairs, 0.4, 1.0), one_by_one)
    without = LadderSampler(temperatures(0.0, 1.0), MALA(0.2), 2, bottom="shared")
    assert without.run(model, x, state, 3, generator, prior)[1].pairs == ()


def test_the_annealed_start_climbs_with_each_rungs_factor():
    model, x = narrow()
    t = temperatures(0.0, 0.5, 1.0)
    factors = torch.stack(
        [scale * torch.eye(4, dtype=torch.float64).expand(3, 4, 4) for scale in (1.0, 2.0, 0.5)]
    )
    sizes = torch.tensor([1.0, 0.5, 2.0], dtype=torch.float64) * 0.1
    plain, with_factor = (
        LadderSampler(t, kernel).start(model, x, seeded(9), "annealed").chains.position
        for kernel in (MALA(torch.full((3,), 0.1, dtype=torch.float64)), MALA(sizes, factor=factors))
    )
    torch.testing.assert_close(plain, with_factor)


def test_a_kernel_whose_proposals_take_no_covariance_is_refused():
    with pytest.raises(InputError, match=r"^`precondition` needs a kernel whose .* a covariance, got ula"):
        ULA(0.1).with_covariance(torch.eye(2))
    model, x = narrow()
    sampler, generator = LadderSampler(temperatures(0.0, 1.0), ULA(0.1)), seeded(0)
    state = sampler.start(model, x, generator)
    with pytest.raises(InputError, match=r"^`precondition` needs a kernel whose .* a covariance, got ula"):
        sampler.adapt(model, x, state, 3, generator, precondition=True)
