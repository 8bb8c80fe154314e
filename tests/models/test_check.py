"""The check at the door: whatever is wrong with a model or its images is one line that says what was found."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import thermograd as tg


class Wrong(nn.Module):
    """A network whose output is changed by a function."""

    def __init__(self, network: nn.Module, change: Any):
        super().__init__()
        self.network, self.change = network, change

    def forward(self, z: Tensor) -> Tensor:
        return self.change(self.network(z))


def decoder(*extra: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 16), *extra, nn.Tanh(), nn.Linear(16, 64), nn.Unflatten(1, (1, 8, 8)))


def energy() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 1), nn.Flatten(-2))


def model(**changes: Any) -> tg.LatentEBM:
    torch.manual_seed(0)
    networks = {"energy_network": energy(), "generator": decoder(), **changes}
    return tg.LatentEBM(**networks, latent_dim=4, image_shape=(1, 8, 8))


X = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_a_good_model_passes_in_any_mode():
    tg.check_model(model(), X)
    tg.check_model(model())
    tg.check_model(model(generator=decoder(nn.BatchNorm1d(16)).eval()), X)
    tg.check_model(model(generator=decoder(nn.GroupNorm(2, 16))), X)
    tg.check_model(model(generator=decoder(nn.LayerNorm(16))), X)
    twin = tg.LinearGaussian.random(2, 8, noise_std=0.5, weight_scale=0.5, seed=0)
    tg.check_model(twin, twin.sample_images(3, torch.Generator()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"energy_network": energy()[:-1]},
            r"`energy` must map latents \(2, 2, 4\) to \(2, 2\), got \(2, 2, 1\): drop",
        ),
        ({"energy_network": nn.Linear(4, 3)}, r"`energy` must map latents .* got \(2, 2, 3\)"),
        ({"energy_network": Wrong(energy(), lambda e: e * torch.nan)}, "`energy` must be finite"),
        (
            {"energy_network": Wrong(energy(), lambda e: e.detach())},
            "`model` must be differentiable in its latents",
        ),
        (
            {"energy_network": Wrong(energy(), lambda e: e - e.mean())},
            "`energy` must treat each latent by itself",
        ),
        (
            {"generator": decoder()[:-1]},
            r"`generator` must map latents \(2, 4\) to \(2, 1, 8, 8\), got \(2, 64\)",
        ),
        ({"generator": Wrong(decoder(), lambda g: g / 0)}, "`generator` must be finite"),
        (
            {"generator": decoder(nn.BatchNorm1d(16))},
            "treat each latent .*BatchNorm1d in training mode",
        ),
        (
            {"generator": Wrong(decoder(), lambda g: g - g.mean(0))},
            "`generator` must treat each latent by itself",
        ),
        (
            {"energy_network": nn.Linear(5, 1)},
            r"`energy` must map latents \(2, 2, 4\) to \(2, 2\), but raises RuntimeError: mat1 and mat2",
        ),
        (
            {"generator": nn.Linear(5, 64)},
            r"`generator` must map latents \(2, 4\) to \(2, 1, 8, 8\), but raises RuntimeError: mat1 and mat2",
        ),
        ({"generator": decoder().double()}, "`generator` must map .* but raises RuntimeError: .* dtype"),
        ({"generator": Wrong(decoder(), lambda g: (g,))}, "`generator` must map .* got tuple in place of"),
        (
            {"energy_network": Wrong(energy(), lambda e: e.detach().numpy())},
            "`energy` must map .* got ndarray in place of a tensor",
        ),
        ({"generator": len}, "`generator` must be a torch.nn.Module, got builtin_function_or_method"),
        ({"generator": decoder(nn.Dropout())}, "`generator` must give the same value at each call"),
    ],
)
def test_what_is_wrong_with_a_model_is_told(changes: dict[str, Any], message: str):
    with pytest.raises(tg.InputError, match=message) as caught:
        tg.check_model(model(**changes), X)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (X.numpy(), r"`x` must be a tensor \(B, 1, 8, 8\), got ndarray"),
        (X[0], r"`x` must have shape \(B, 1, 8, 8\), got \(1, 8, 8\)"),
        (X[:0], r"got \(0, 1, 8, 8\)"),
        (X.double(), "`x` must be torch.float32 as the model's parameters are, got torch.float64"),
        (127 * (X + 1), r"`x` must lie in \[-1, 1\] for a Gaussian likelihood, got \["),
        (X * torch.nan, "`x` must be finite"),
    ],
)
def test_what_is_wrong_with_images_is_told(x: Any, message: str):
    with pytest.raises(tg.InputError, match=message):
        tg.check_model(model(), x)


def test_a_bernoulli_likelihood_takes_0_and_1():
    binary = tg.LatentEBM(energy(), decoder(), latent_dim=4, image_shape=(1, 8, 8), likelihood="bernoulli")
    tg.check_model(binary, (X > 0).float())
    with pytest.raises(tg.InputError, match="must hold 0 and 1"):
        tg.check_model(binary, X)


def test_what_is_no_model_is_told():
    with pytest.raises(tg.InputError, match="`model` must be a LatentModel, got Sequential: wrap"):
        tg.check_model(decoder())


@pytest.mark.parametrize("verb", ["fit", "estimate_evidence", "gradient_variance", "sample_ladder"])
def test_every_verb_checks(verb: str):
    wrong, twin = model(generator=decoder(nn.BatchNorm1d(16))), torch.Generator()
    arguments = {
        "fit": (wrong, X),
        "estimate_evidence": (wrong, X),
        "gradient_variance": (wrong, [X, X, X]),
        "sample_ladder": (wrong, X, tg.power_schedule(3, 2.0), twin),
    }[verb]
    with pytest.raises(tg.InputError, match="must treat each latent by itself"):
        getattr(tg, verb)(*arguments)
