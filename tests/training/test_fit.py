"""Training and variance of any model in memory."""

import pytest
import torch
from torch import nn

import thermograd as tg


def own_model() -> tg.LatentEBM:
    torch.manual_seed(0)
    decoder = nn.Sequential(
        nn.Linear(4, 32), nn.SiLU(), nn.Linear(32, 64), nn.Tanh(), nn.Unflatten(1, (1, 8, 8))
    )
    energy = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 1), nn.Flatten(-2))
    return tg.LatentEBM(energy, decoder, latent_dim=4, image_shape=(1, 8, 8))


def test_a_decoder_of_the_users_learns():
    model, x = own_model(), tg.load_dataset("digits").to_tensor(300)
    seen: list[int] = []
    fit = tg.fit(
        model, x, num_epochs=25, batch_size=50, on_step=lambda step, total, record: seen.append(total)
    )
    frame = fit.to_dataframe()
    assert seen == [150] * 150 == frame["step"].index.size * [150]
    assert frame["log_likelihood"].iloc[-10:].mean() > frame["log_likelihood"].iloc[:10].mean() + 50
    assert fit.chains.stored is not None


def test_the_bias_of_a_last_layer_may_stand_still_and_nothing_else_may():
    """It adds a constant to the energy, so its gradient is rightly 0; the guard stays for every other parameter."""
    model, x = own_model(), tg.load_dataset("digits").to_tensor(40)
    settings = {"training.zero_gradient_steps": 2}
    tg.fit(model, x, num_epochs=5, batch_size=20, settings=settings)
    model.generator.dead = nn.Parameter(torch.ones(3))
    with pytest.raises(tg.RunError, match=r"gradient of generator.dead has been exactly zero for 2 steps"):
        tg.fit(model, x, num_epochs=5, batch_size=20, settings=settings)


def test_the_same_seed_gives_the_same_weights():
    x = tg.load_dataset("digits").to_tensor(40)
    models = [own_model() for _ in range(3)]
    for model, seed in zip(models, (1, 1, 2), strict=True):
        tg.fit(model, x, num_epochs=2, batch_size=20, seed=seed)
    weights = [torch.cat([p.flatten() for p in model.parameters()]) for model in models]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 41}, "`batch_size` must be at most the 40 images, got 41"),
        ({"estimator": "maximum-liklihood"}, "maximum-likelihood"),
        ({"settings": {"posterior_chains.num_step": 3}}, "did you mean 'posterior_chains.num_steps'"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(tg.InputError, match=message):
        tg.fit(own_model(), tg.load_dataset("digits").to_tensor(40), **options)


def test_the_variance_on_a_twin_is_the_closed_form():
    twin = tg.LinearGaussian.random(2, 8, noise_std=0.5, weight_scale=0.5, seed=0)
    batches = twin.sample_images(96, torch.Generator().manual_seed(1)).split(8)
    settings = {"posterior_chains.num_steps": 60}
    found = tg.gradient_variance(twin, batches, num_repeats=12, settings=settings)
    measured = found.measurements["maximum-likelihood"].summary()["generator"]["chain_variance"]
    exact = torch.stack(
        [
            torch.cat([v.flatten() for v in twin.posterior_gradient_variance(x).values()]).mean()
            for x in batches
        ]
    )
    half = float(measured.high - measured.low) / 2
    assert abs(float(measured.value) - float(exact.mean())) < 4 / 1.96 * half
    frame = found.to_dataframe()
    assert set(frame.columns) == {"estimator", "network", "quantity", "value", "low", "high"}
    assert "chain_variance" in str(found)


def test_more_chains_have_less_variance_and_the_reference_gives_a_bias():
    twin = tg.LinearGaussian.random(2, 8, noise_std=0.5, weight_scale=0.5, seed=0)
    batches = twin.sample_images(32, torch.Generator().manual_seed(1)).split(8)
    frames = []
    for chains in (1, 8):
        settings = {"gradient.num_chains": chains}
        found = tg.gradient_variance(twin, batches, num_repeats=6, settings=settings, reference=chains == 1)
        frames.append(found.to_dataframe().set_index(["network", "quantity"])["value"])
    assert frames[1]["total", "chain_variance"] < frames[0]["total", "chain_variance"] / 4
    assert ("total", "squared_bias") in frames[0].index
