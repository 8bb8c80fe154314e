"""What ArviZ is given, and that its R-hat and effective sample size are ours."""

import sys

import pytest
import torch
from test_diagnostics import autoregression

import thermograd as tg
from thermograd.ladders.diagnostics import effective_sample_size, r_hat
from thermograd.ladders.record import LadderTrace

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
arviz = pytest.importorskip("arviz", reason="ArviZ is not installed", exc_type=ImportError)


def trace_of(values: torch.Tensor) -> LadderTrace:
    t = torch.linspace(0, 1, values.shape[1], dtype=torch.float64)
    return LadderTrace(t, values, -values, torch.stack([values, 2 * values], -1))


@pytest.mark.parametrize("coefficient", [-0.6, 0.0, 0.5, 0.95])
@pytest.mark.parametrize("num_steps", [10, 11, 47, 400])
def test_size_and_r_hat_are_those_of_arviz(coefficient: float, num_steps: int):
    values = autoregression(coefficient, num_steps, 3, 2, 20, seed=7)  # (S, K, M, B)
    data = trace_of(values).to_arviz()
    size = arviz.ess(data.sample_stats, var_names="log_likelihood", method="mean")["log_likelihood"]
    ours = effective_sample_size(values.transpose(1, 2))
    torch.testing.assert_close(ours, torch.from_numpy(size.values), rtol=1e-9, atol=0)
    ratio = arviz.rhat(data.sample_stats, var_names="log_likelihood")["log_likelihood"]
    torch.testing.assert_close(
        r_hat(values.transpose(1, 2)), torch.from_numpy(ratio.values), rtol=1e-6, atol=0
    )


def test_each_number_stands_where_its_axes_say():
    twin = tg.LinearGaussian.random(2, 8, noise_std=0.5, weight_scale=0.5, seed=0)
    x = twin.sample_images(3, torch.Generator().manual_seed(1))
    t = tg.power_schedule(4, 3.0)
    _, _, trace = tg.sample_ladder(twin, x, t, torch.Generator().manual_seed(2), num_steps=12)
    for data in (trace.to_arviz(), trace.as_draws().to_arviz()):
        for rung, chain, draw, image in ((0, 0, 0, 0), (3, 1, 11, 2), (2, 0, 5, 1)):
            at = {"rung": float(t[rung]), "chain": chain, "draw": draw, "image": image}
            latents = data.posterior["latents"].sel(at).values
            assert latents == pytest.approx(trace.latents[draw, rung, chain, image].numpy())
            energy = float(data.sample_stats["energy"].sel(at))
            assert energy == pytest.approx(float(trace.energy[draw, rung, chain, image]))


def test_temperatures_per_image_stand_beside_the_rungs():
    values = autoregression(0.0, 10, 3, 2, 4)
    t = torch.linspace(0, 1, 3).unsqueeze(1) ** torch.tensor([1.0, 2.0, 3.0, 4.0])
    data = LadderTrace(t, values, -values).to_arviz()
    assert data.posterior["log_likelihood"].dims == ("chain", "draw", "rung", "image")
    assert float(data.posterior["inverse_temperature"].sel(rung=1, image=3)) == 0.5**4


def test_evidence_keeps_its_repeats_and_rungs():
    twin = tg.LinearGaussian.random(2, 8, noise_std=0.5, weight_scale=0.5, seed=0)
    x = twin.sample_images(3, torch.Generator().manual_seed(1))
    found = tg.estimate_evidence(twin, x, method="thermodynamic", num_evaluations=1000)
    data = found.to_arviz()
    mean = data.posterior["log_evidence"].mean(("chain", "draw"))
    assert mean.values == pytest.approx(found.replicates.mean(0).numpy())
    assert data.constant_data["low"].values == pytest.approx(found.low.numpy())
    assert data.constant_data["expected_log_likelihood"].dims == ("rung", "image")
    sizes = arviz.ess(data, var_names="log_evidence", method="mean")["log_evidence"].values
    assert sizes == pytest.approx(effective_sample_size(found.replicates.unsqueeze(1)).numpy())


def test_without_arviz_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "arviz", None)
    with pytest.raises(tg.InputError, match=r"^arviz is not installed: pip install 'thermograd\[arviz\]'\.$"):
        trace_of(autoregression(0.0, 10, 3, 2, 4)).to_arviz()
