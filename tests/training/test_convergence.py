"""The verdict on a prior, on densities whose mean energy is known."""

import math

import pytest
import torch
from torch import Tensor

from thermograd.config.sections import PriorChainsConfig
from thermograd.errors import InputError
from thermograd.models.latent_model import LatentModel
from thermograd.samplers.prior import PriorSource
from thermograd.training.convergence import follow_prior


class Narrow(LatentModel):
    """E = c |z|^2 / 2, so that the prior is N(0, 1/(1 + c)) and its mean energy d c / (2 (1 + c))."""

    latent_dim, base_std, image_shape = 8, 1.0, (1,)

    def __init__(self, curvature: float):
        super().__init__()
        self.curvature = curvature
        self.weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        raise AssertionError("the prior alone")

    def energy(self, z: Tensor) -> Tensor:
        return self.curvature * z.square().sum(-1) / 2

    def parameter_groups(self) -> dict[str, list[str]]:
        return {"prior": ["weight"], "generator": []}

    def exact(self, num: int) -> Tensor:
        generator = torch.Generator().manual_seed(7)
        noise = torch.randn(num, self.latent_dim, generator=generator, dtype=torch.float64)
        return noise / math.sqrt(1 + self.curvature)


def source(stored: Tensor | None, h: float = 0.5) -> PriorSource:
    start = "base" if stored is None else "persistent"
    return PriorSource(PriorChainsConfig(start=start), torch.tensor(h), stored)


MARKS = (10, 40, 120)


def test_chains_at_stationarity_have_settled_with_the_known_energy():
    model = Narrow(9.0)
    found = follow_prior(
        model, source(model.exact(400)), model.exact(4000), 0, num_chains=400, num_steps=MARKS
    )
    truth = 8 * 9 / (2 * 10)
    for mark in found.marks:
        assert abs(mark.energy - truth) < 4 * mark.standard_error
    assert found.contrast is not None
    assert found.contrast_error is not None
    assert abs(found.contrast) < 4 * found.contrast_error
    assert found.verdict == "settled"
    assert found.r_hat < 1.05
    assert [tuple(z.shape) for z in found.latents] == [(400, 8)] * 3
    assert set(found.record()) == set(vars(found)) - {"latents"}


def test_step_sizes_are_found_before_the_marks():
    """From h = 0.01, too small by fifty times, ten steps would go nowhere without the pilot."""
    model = Narrow(3.0)
    stored = model.exact(300) * 3
    found = follow_prior(model, source(stored, 0.01), None, 0, num_chains=300, num_steps=MARKS)
    assert found.contrast is None
    assert abs(found.marks[-1].energy - 3.0) < 4 * found.marks[-1].standard_error


def test_chains_that_still_travel_have_not_settled():
    """They begin at the base distribution, or far out, in a prior that is a hundred times narrower."""
    model = Narrow(99.0)
    short = follow_prior(model, source(None, 0.02), None, 0, num_chains=200, num_steps=(1, 5, 400))
    assert short.verdict == "short-run"
    stored = model.exact(200) * 10
    persistent = follow_prior(model, source(stored, 0.02), None, 0, num_chains=200, num_steps=(1, 5, 400))
    assert persistent.verdict == "not-settled"


def test_a_contrast_alone_refuses_the_verdict():
    """Energies stand, yet posterior draws lie elsewhere: the energy has not learnt them."""
    model = Narrow(9.0)
    stored, posterior = model.exact(400), 2 * model.exact(4000)
    found = follow_prior(model, source(stored), posterior, 0, num_chains=400, num_steps=MARKS)
    assert found.contrast == pytest.approx(3 * 3.6, rel=0.1)
    assert found.verdict == "not-settled"


@pytest.mark.parametrize("num_steps", [(40,), (40, 42), (200, 40)])
def test_marks_must_rise(num_steps: tuple[int, ...]):
    with pytest.raises(InputError, match="`num_steps` must rise by at least 4"):
        follow_prior(Narrow(1.0), source(None), None, 0, num_steps=num_steps)
