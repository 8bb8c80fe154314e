"""Chains on the prior: persistent sources, and a ladder that crosses where one chain cannot."""

import math

import pytest
import torch
from torch import Tensor

from thermograd.config.sections import PriorChainsConfig
from thermograd.errors import InputError
from thermograd.models.latent_model import LatentModel
from thermograd.samplers.mala import MALA
from thermograd.samplers.prior import PriorSource, prior_temperatures, sample_prior


class TwoModes(LatentModel):
    """A prior that is exactly 0.3 N(-3, s^2) + 0.7 N(3, s^2) in its first latent, and N(0, 1) in the second."""

    latent_dim, base_std, image_shape = 2, 1.0, (1,)

    def __init__(self, s: float = 0.5):
        super().__init__()
        self.s = s
        self.weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        raise AssertionError("the prior's chains cost no evaluation of the generator")

    def energy(self, z: Tensor) -> Tensor:
        first = z[..., 0]
        modes = [math.log(w) - (first - m).square() / (2 * self.s**2) for w, m in ((0.3, -3.0), (0.7, 3.0))]
        return -torch.logaddexp(*modes) - first.square() / 2

    def parameter_groups(self) -> dict[str, list[str]]:
        return {"prior": ["weight"], "generator": []}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


LEFT = torch.tensor([-3.0, 0.0], dtype=torch.float64)


def test_a_ladder_crosses_between_modes_with_the_right_weights():
    """All chains begin in the left mode, which holds 0.3; its four-sigma interval says whether exchange is exact."""
    model, num_rungs, num_chains = TwoModes(), 8, 300
    start = LEFT.expand(num_rungs, num_chains, 2)
    step_sizes = torch.linspace(1.2, 0.6, num_rungs, dtype=torch.float64)
    draws = sample_prior(model, MALA(step_sizes), 200, start, seeded(1))
    right = (draws.latents[:, 0] > 0).double()
    assert abs(float(right.mean()) - 0.7) < 4 * math.sqrt(0.3 * 0.7 / num_chains)
    second = draws.latents[:, 1]
    assert abs(float(second.square().mean()) - 1) < 4 * math.sqrt(2 / num_chains)
    assert draws.swap_rates is not None
    assert draws.swap_rates.shape == (num_rungs - 1,)
    assert float(draws.swap_rates.min()) > 0.1
    assert draws.acceptance.shape == (num_rungs,)
    # The hottest rung is the base distribution.
    hottest = draws.chains[0]
    assert abs(float(hottest.square().mean()) - 1) < 4 * math.sqrt(2 / (2 * num_chains))
    assert torch.equal(draws.chains[-1], draws.latents)
    torch.testing.assert_close(draws.energy, model.energy(draws.latents))


def test_one_chain_stays_in_its_mode():
    draws = sample_prior(TwoModes(), MALA(0.6), 300, LEFT.expand(300, 2), seeded(1))
    assert bool((draws.latents[:, 0] < 0).all())
    assert torch.equal(draws.chains, draws.latents)


def test_the_trace_holds_the_energy_after_each_step():
    model, start = TwoModes(), LEFT.expand(5, 2)
    whole = sample_prior(model, MALA(0.6), 6, start, seeded(2))
    assert whole.energy_trace is not None
    assert whole.energy_trace.shape == (6, 5)
    for steps in (1, 4):
        torch.testing.assert_close(
            whole.energy_trace[steps - 1], sample_prior(model, MALA(0.6), steps, start, seeded(2)).energy
        )


def test_temperatures_run_from_the_base_to_the_prior():
    assert prior_temperatures(5).tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]


def test_a_start_of_another_number_of_axes_is_refused():
    with pytest.raises(
        InputError, match=r"`start` must be \(M0, d\), or \(K, M0, d\) with a ladder, got \(2,\)"
    ):
        sample_prior(TwoModes(), MALA(0.5), 1, torch.zeros(2, dtype=torch.float64), seeded(3))


@pytest.mark.parametrize("num_rungs", [None, 3])
@pytest.mark.parametrize("num", [4, 7, 20])
def test_a_source_copies_its_stored_chains_as_evenly_as_can_be(num: int, num_rungs: int | None):
    shape = (7,) if num_rungs is None else (num_rungs, 7)
    stored = torch.arange(7.0).expand(shape).unsqueeze(-1).repeat_interleave(2, -1)
    source = PriorSource(PriorChainsConfig(start="persistent"), torch.tensor(0.4), stored)
    start = source.start(TwoModes(), num, seeded(4))
    assert start.shape == (*shape[:-1], num, 2)
    counts = torch.bincount(start[..., 0].reshape(-1, num)[0].long(), minlength=7)
    assert int(counts.max() - counts.min()) <= 1
    if num_rungs is not None:  # all rungs of a copy are of one ladder
        assert bool((start == start[0]).all())


def test_a_source_knows_its_steps():
    def steps(**settings: object) -> int:
        return PriorSource(PriorChainsConfig(**settings), torch.tensor(0.4)).num_steps  # type: ignore[arg-type]

    assert steps(num_steps=7) == 7
    assert steps(num_steps=7, start="persistent") == 7
    assert steps(num_steps=7, start="persistent", num_sample_steps=50) == 50
    assert steps(num_steps=7, num_sample_steps=50) == 7  # short chains begin at the base, as training's did
