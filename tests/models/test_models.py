"""The latent energy-based model and its networks, against formulas written apart from them."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Normal

from thermograd.config.resolve import preset_names, resolve
from thermograd.config.schema import RunConfig
from thermograd.errors import InputError
from thermograd.models.energy import EnergyNetwork
from thermograd.models.generator import STAGE_SIZES, ConvGenerator, DenseGenerator
from thermograd.models.latent_ebm import LatentEBM
from thermograd.streams import stream
from thermograd.training.builder import build_model
from thermograd.training.trainer import Trainer

MakeConfig = Callable[..., RunConfig]


def model_of(
    likelihood: str = "gaussian", *, size: int = 8, channels: int = 1, kind: str = "dense"
) -> LatentEBM:
    """Return a small float64 model with d = 3."""
    shape = (channels, size, size)
    squash = likelihood == "gaussian"
    if kind == "conv":
        widths = (6, 5, 4, 3)[: len(STAGE_SIZES[size]) - 1]
        generator: nn.Module = ConvGenerator(3, shape, widths, squash, stream(0, "g"))
    else:
        generator = DenseGenerator(3, shape, (7,), squash, stream(0, "g"))
    energy = EnergyNetwork(3, (8, 8), "gelu", stream(0, "e"))
    model = LatentEBM(
        energy, generator, latent_dim=3, image_shape=shape, likelihood=likelihood, noise_std=0.4, base_std=1.3
    )
    return model.double()


def images(model: LatentEBM, num: int) -> Tensor:
    x = torch.rand((num, *model.image_shape), generator=stream(1, "x"), dtype=torch.float64)
    return (x > 0.5).double() if model.likelihood == "bernoulli" else 2 * x - 1


def latents(*shape: int) -> Tensor:
    return torch.randn((*shape, 3), generator=stream(2, "z"), dtype=torch.float64)


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_builds_and_steps_on_random_images(name: str):
    """With its own networks and rates; chains and batches are cut to make a step short."""
    config, _ = resolve(
        name,
        overrides={
            "training.batch_size": 2,
            "prior_chains.num_steps": 2,
            "posterior_chains.num_steps": 1,
            "compute.device": "cpu",
        },
    )
    trainer = Trainer(config, build_model(config), num_images=5)
    before = {key: tensor.clone() for key, tensor in trainer.model.state_dict().items()}
    x = 2 * torch.rand((2, *config.model.image_shape), generator=stream(0, "x")) - 1
    trainer.step(x, torch.tensor([3, 0]), 0, 0)
    for key, tensor in trainer.model.state_dict().items():
        assert tensor.isfinite().all()
        assert not torch.equal(tensor, before[key]), key


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_log_likelihood_is_the_sum_of_the_pixels_distributions(likelihood: str, channels: int):
    model = model_of(likelihood, channels=channels)
    x, z = images(model, 4), latents(2, 5, 4)
    output = model.generator(z.reshape(-1, 3)).view(2, 5, 4, *model.image_shape)
    pixels = Normal(output, 0.4) if likelihood == "gaussian" else Bernoulli(logits=output)
    expected = pixels.log_prob(x.expand_as(output)).sum((-3, -2, -1))
    torch.testing.assert_close(model.log_likelihood(x, z), expected, rtol=1e-12, atol=0)


def test_log_prior_and_base_are_the_formulas():
    model, z = model_of(), latents(5, 4)
    base = Normal(torch.zeros(()).double(), 1.3).log_prob(z).sum(-1)
    torch.testing.assert_close(model.log_base(z), base, rtol=1e-12, atol=0)
    constant = model.log_base(torch.zeros(3).double())
    torch.testing.assert_close(model.log_prior(z), base - constant - model.energy(z), rtol=1e-12, atol=1e-12)


def test_base_draws_have_the_base_standard_deviation():
    z = model_of().sample_base((20_000,), stream(0, "base"))
    # The variance of a sample variance of n normal numbers is 2 s^4 / n.
    error = 1.3**2 * (2 / z.numel()) ** 0.5
    assert abs(float(z.square().mean()) - 1.3**2) < 4 * error
    assert abs(float(z.mean())) < 4 * 1.3 / z.numel() ** 0.5


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_the_two_scores_are_gradients_of_each_part_alone(likelihood: str):
    """By autograd on one part at a time, and by finite differences."""
    model = model_of(likelihood)
    x, z = images(model, 4), latents(2, 4)
    found = model.evaluate(x, z)
    for value, score, function in (
        (found.log_likelihood, found.likelihood_score, lambda u: model.log_likelihood(x, u)),
        (found.log_prior, found.prior_score, model.log_prior),
    ):
        leaf = z.clone().requires_grad_()
        expected_value = function(leaf)
        (expected,) = torch.autograd.grad(expected_value.sum(), leaf)
        torch.testing.assert_close(value, expected_value.detach(), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(score, expected, rtol=1e-12, atol=1e-12)
        for k in range(3):
            h = torch.zeros(3).double()
            h[k] = 1e-5
            difference = (function(z + h) - function(z - h)).detach() / 2e-5
            torch.testing.assert_close(score[..., k], difference, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.energy, model.energy(z).detach())
    prior = model.evaluate_prior(z)
    torch.testing.assert_close(prior.prior_score, found.prior_score)
    torch.testing.assert_close(prior.log_prior, found.log_prior)
    assert not prior.likelihood_score.any()
    assert not any(tensor.requires_grad for tensor in (*found, *prior))


@pytest.mark.parametrize("kind", ["conv", "dense"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", sorted(STAGE_SIZES))
def test_every_image_size_and_its_gradients(size: int, channels: int, kind: str):
    """Each weight and bias moves the images, and each pixel depends on the latent vector."""
    model = model_of(size=size, channels=channels, kind=kind)
    z = latents(3, 2)
    image = model.decode(z)
    assert image.shape == (3, 2, channels, size, size)
    assert image.abs().max() < 1
    assert (image.std((0, 1)) > 0).all()
    loss = model.log_likelihood(images(model, 2), z).sum()
    for gradient in torch.autograd.grad(loss, list(model.generator.parameters())):
        assert gradient.any()


@pytest.mark.parametrize("shape", [(1, 5, 9), (3, 13, 13)])
def test_the_dense_generator_takes_any_shape(shape: tuple[int, int, int]):
    network = DenseGenerator(4, shape, (), True, stream(0, "g"))
    assert network(torch.zeros(2, 4)).shape == (2, *shape)


def test_the_svhn_generator_is_the_published_one():
    """Pang et al.: 4x4 transposed convolutions 512-256-128-3 from a single pixel, LeakyReLU 0.2, tanh."""
    config, _ = resolve("svhn", overrides={"compute.device": "cpu"})
    ours = build_model(config).generator
    published = nn.Sequential(
        nn.ConvTranspose2d(100, 512, 4, 1, 0),
        nn.LeakyReLU(0.2),
        nn.ConvTranspose2d(512, 256, 4, 2, 1),
        nn.LeakyReLU(0.2),
        nn.ConvTranspose2d(256, 128, 4, 2, 1),
        nn.LeakyReLU(0.2),
        nn.ConvTranspose2d(128, 3, 4, 2, 1),
        nn.Tanh(),
    )
    assert sum(p.numel() for p in published.parameters()) - 512 + 512 * 16 == sum(
        p.numel() for p in ours.parameters()
    )
    assert isinstance(ours, ConvGenerator)
    with torch.no_grad():
        first = published[0]
        assert isinstance(first, nn.ConvTranspose2d)
        # Ours has a bias for each pixel of the first map; the published one a bias for each channel.
        first.bias.copy_(torch.randn(512, generator=stream(0, "bias")))
        ours.project.weight.copy_(first.weight.permute(2, 3, 1, 0).reshape(-1, 100))
        ours.project.bias.copy_(first.bias.repeat(16))
        convolutions = [layer for layer in published if isinstance(layer, nn.ConvTranspose2d)][1:]
        mine = [layer for layer in ours.layers if isinstance(layer, nn.ConvTranspose2d)]
        for theirs, layer in zip(convolutions, mine, strict=True):
            layer.load_state_dict(theirs.state_dict())
        z = torch.randn(3, 100, generator=stream(0, "z"))
        torch.testing.assert_close(ours(z), published(z[..., None, None]), rtol=0, atol=1e-5)


def test_the_published_energy_network():
    config, _ = resolve("svhn", overrides={"compute.device": "cpu"})
    energy = build_model(config).energy_network
    shapes = [tuple(p.shape) for p in energy.parameters()]
    assert shapes == [(200, 100), (200,), (200, 200), (200,), (1, 200)]


@pytest.mark.parametrize("activation", ["gelu", "leaky_relu", "silu"])
@pytest.mark.parametrize("hidden", [(), (5,), (8, 4)])
def test_the_energys_last_layer_has_no_bias(hidden: tuple[int, ...], activation: str):
    """It would cancel out of everything, and its gradient is identically 0."""
    network = EnergyNetwork(3, hidden, activation, stream(0, "e"))
    linear = [layer for layer in network.layers if isinstance(layer, nn.Linear)]
    assert linear[-1].bias is None
    assert all(layer.bias is not None for layer in linear[:-1])
    z = torch.randn(2, 5, 3)
    assert network(z).shape == (2, 5)
    # The energy is no constant, and each weight has a gradient.
    assert network(z).std() > 0
    gradients = torch.autograd.grad(network(z[0]).square().sum(), list(network.parameters()))
    assert all(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("kind", ["conv", "dense"])
@pytest.mark.parametrize("mode", [True, False])
def test_one_images_values_do_not_depend_on_the_others(kind: str, mode: bool):
    """IIB, TORCH: batch normalisation couples chains. NEW: scores were summed over images."""
    model = model_of(size=16, kind=kind).train(mode)
    x, z = images(model, 4), latents(2, 4)
    other_x, other_z = x.clone(), z.clone()
    other_x[1:] = -other_x[1:]
    other_z[:, 1:] += 3
    for ours, theirs in zip(model.evaluate(x, z), model.evaluate(other_x, other_z), strict=True):
        torch.testing.assert_close(ours[:, 0], theirs[:, 0], rtol=1e-12, atol=1e-12)
        assert not torch.allclose(ours[:, 1], theirs[:, 1])
    normalised = [m for m in model.modules() if "Norm" in type(m).__name__ or "Dropout" in type(m).__name__]
    assert normalised == []


def test_leading_axes_are_free():
    model = model_of(kind="conv")
    x, z = images(model, 4), latents(2, 5, 4)
    whole = model.evaluate(x, z)
    one = model.evaluate(x[2:3], z[1, 3, 2:3])
    for many, single in zip(whole, one, strict=True):
        torch.testing.assert_close(many[1, 3, 2:3], single)


def test_bernoulli_pictures_are_mean_intensities():
    model, z = model_of("bernoulli"), latents(4)
    expected = 2 * Bernoulli(logits=model.generator(z)).mean - 1
    torch.testing.assert_close(model.decode(z), expected.detach())


def test_parameter_groups_are_a_partition():
    model = model_of(kind="conv")
    groups = model.parameter_groups()
    assert sorted(groups["prior"] + groups["generator"]) == sorted(
        name for name, _ in model.named_parameters()
    )
    assert not set(groups["prior"]) & set(groups["generator"])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"noise_std": 0.0}, "`noise_std` must be positive, got 0.0."),
        ({"noise_std": float("nan")}, "`noise_std` must be positive, got nan."),
        ({"base_std": -1.0}, "`base_std` must be positive, got -1.0."),
        ({"base_std": float("inf")}, "`base_std` must be positive, got inf."),
        ({"likelihood": "poisson"}, "`likelihood` must be gaussian or bernoulli, got 'poisson'."),
    ],
)
def test_bad_models_are_refused(settings: dict, words: str):
    model = model_of()
    with pytest.raises(InputError) as caught:
        LatentEBM(model.energy_network, model.generator, latent_dim=3, image_shape=(1, 8, 8), **settings)
    assert str(caught.value) == words


@pytest.mark.parametrize(
    ("shape", "widths", "words"),
    [
        ((1, 8, 16), (4,), "got 8x16"),
        ((1, 20, 20), (4,), "got 20x20"),
        ((1, 8, 8), (4, 4), "must have 1 entries for 8 pixels"),
        ((1, 64, 64), (4, 4), "must have 4 entries for 64 pixels"),
    ],
)
def test_bad_convolutional_generators_are_refused(shape: tuple, widths: tuple, words: str):
    with pytest.raises(InputError, match=words):
        ConvGenerator(3, shape, widths, True, stream(0, "g"))
