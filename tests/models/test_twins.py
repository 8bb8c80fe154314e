"""The exact twins: against densities, autograd, finite differences, each other, and brute force."""

import math
from itertools import pairwise

import pytest
import torch
from torch.distributions import MultivariateNormal

from thermograd.errors import InputError
from thermograd.ladders.quadrature import left_sum, right_sum, trapezoid_weights
from thermograd.ladders.schedules import linear_schedule, power_schedule
from thermograd.models.energy import EnergyNetwork
from thermograd.models.exact_twin import ExactTwin, unit_interval_nodes
from thermograd.models.generator import DenseGenerator
from thermograd.models.grid import GridTwin
from thermograd.models.latent_ebm import LatentEBM
from thermograd.models.linear_gaussian import LinearGaussian

TEMPERATURES = torch.tensor([0.0, 0.02, 0.3, 1.0], dtype=torch.float64)
FULL_CURVATURE = torch.tensor([[0.8, 0.3, 0.0], [0.3, -0.4, 0.1], [0.0, 0.1, 0.2]], dtype=torch.float64)
CURVATURES = {"no energy": None, "diagonal": FULL_CURVATURE.diagonal(), "full": FULL_CURVATURE}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def linear_twin(curvature: torch.Tensor | None, latent_dim: int = 3, num_pixels: int = 5) -> LinearGaussian:
    twin = LinearGaussian.random(latent_dim, num_pixels, 0.5, 0.7, seed=1, energy_curvature=curvature)
    with torch.no_grad():
        twin.bias.normal_(generator=seeded(2))
    return twin


def network_model(latent_dim: int, likelihood: str = "gaussian") -> LatentEBM:
    """Return a small non-linear model whose energy bends the prior well away from a Gaussian."""
    energy = EnergyNetwork(latent_dim, (6,), "gelu", seeded(3))
    squash = likelihood == "gaussian"
    generator = DenseGenerator(latent_dim, (1, 2, 2), (5,), squash, seeded(4))
    shape = {"latent_dim": latent_dim, "image_shape": (1, 2, 2)}
    model = LatentEBM(energy, generator, likelihood=likelihood, noise_std=0.4, base_std=1.3, **shape).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5).add_(
                0.2 * torch.randn(parameter.shape, generator=seeded(5), dtype=torch.float64)
            )
    return model


def make_twin(name: str) -> tuple[ExactTwin, torch.Tensor]:
    if name.startswith("linear"):
        twin = linear_twin(CURVATURES[name.removeprefix("linear, ")])
        return twin, twin.sample_images(4, seeded(6))
    latent_dim = 2 if "2" in name else 1
    likelihood = "bernoulli" if "bernoulli" in name else "gaussian"
    x = torch.rand(3, 1, 2, 2, generator=seeded(7), dtype=torch.float64) * 2 - 1
    if likelihood == "bernoulli":
        x = (x > 0).double()
    return GridTwin(network_model(latent_dim, likelihood), 61 if latent_dim == 2 else 201, half_width=7), x


TWINS = ["linear, no energy", "linear, diagonal", "linear, full", "grid 1", "grid 2", "grid 1 bernoulli"]


def trained(twin: ExactTwin) -> dict[str, torch.nn.Parameter]:
    assert isinstance(twin, GridTwin | LinearGaussian)
    return dict((twin.model if isinstance(twin, GridTwin) else twin).named_parameters())


def assert_same(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], relative: float) -> None:
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert actual[name].shape == value.shape
        error = float((actual[name] - value).norm() / value.norm())
        assert error < relative, f"{name}: relative error {error:.2e}"


def largest_z(draws: torch.Tensor, truth: torch.Tensor) -> float:
    """Return the largest |z| over coordinates of the mean of independent draws (n, ...)."""
    error = draws.std(0) / math.sqrt(len(draws))
    return float(((draws.mean(0) - truth) / error).abs().max())


# The closed-form twin against independent algebra


@pytest.mark.parametrize("name", CURVATURES)
def test_log_evidence_is_the_density_of_x(name):
    twin = linear_twin(CURVATURES[name])
    x = twin.sample_images(6, seeded(0))
    precision = torch.eye(3, dtype=torch.float64)
    if twin.energy_curvature is not None:
        curvature = twin.energy_curvature
        precision = precision + (curvature.diag() if curvature.ndim == 1 else curvature)
    covariance = twin.weight @ precision.inverse() @ twin.weight.mT + 0.25 * torch.eye(5, dtype=torch.float64)
    marginal = MultivariateNormal(twin.bias, covariance)
    torch.testing.assert_close(twin.log_evidence(x), marginal.log_prob(x), rtol=1e-10, atol=0)
    gradients = torch.autograd.grad(marginal.log_prob(x).mean(), list(trained(twin).values()))
    assert_same(twin.evidence_gradient(x), dict(zip(trained(twin), gradients, strict=True)), 1e-10)


@pytest.mark.parametrize("name", CURVATURES)
def test_power_posterior_is_proportional_to_likelihood_to_the_t_times_prior(name):
    twin = linear_twin(CURVATURES[name])
    x = twin.sample_images(2, seeded(0))
    z = torch.randn(7, 2, 3, generator=seeded(1), dtype=torch.float64)
    log_prior = twin.log_base(z) - twin.energy(z) - twin.log_partition()
    torch.testing.assert_close(twin.prior().log_prob(z), log_prior)
    for t in (0.0, 0.3, 1.0):
        joint = t * twin.log_likelihood(x, z) + log_prior
        conditional = twin.power_posterior(x, t).log_prob(z)
        torch.testing.assert_close(joint - conditional, twin.log_power_evidence(x, t).expand(7, 2))
    whole = twin.power_posterior(x, TEMPERATURES)
    assert whole.batch_shape == (4, 2)
    torch.testing.assert_close(whole.mean[2], twin.power_posterior(x, 0.3).mean)


@pytest.mark.parametrize("name", CURVATURES)
def test_the_linear_twin_is_a_model_like_any_other(name):
    twin = linear_twin(CURVATURES[name])
    x = twin.sample_images(2, seeded(0))
    z = torch.randn(4, 2, 3, generator=seeded(1), dtype=torch.float64)
    evaluation = twin.evaluate(x, z)
    residual = (x - twin.bias - z @ twin.weight.mT).detach()
    torch.testing.assert_close(evaluation.likelihood_score, (residual @ twin.weight / 0.25).detach())
    precision = twin.prior().precision_matrix
    torch.testing.assert_close(evaluation.prior_score, -z @ precision)
    torch.testing.assert_close(twin.evaluate_prior(z).prior_score, -z @ precision)
    density = torch.distributions.Normal(twin.decode(z), 0.5).log_prob(x).sum(-1)
    torch.testing.assert_close(evaluation.log_likelihood, density)
    names = [name for group in twin.parameter_groups().values() for name in group]
    assert sorted(names) == sorted(trained(twin))


# Identities that hold on both twins


@pytest.mark.parametrize("name", TWINS)
def test_fisher_identity_equals_autograd_of_log_evidence(name):
    twin, x = make_twin(name)
    parameters = trained(twin)
    gradients = torch.autograd.grad(twin.log_evidence(x).mean(), list(parameters.values()))
    exact = dict(zip(parameters, gradients, strict=True))
    assert_same(ExactTwin.evidence_gradient(twin, x), exact, 1e-8)
    assert_same(twin.evidence_gradient(x), exact, 1e-8)


@pytest.mark.parametrize("name", TWINS)
def test_evidence_gradient_equals_finite_differences(name):
    twin, x = make_twin(name)
    gradient = twin.evidence_gradient(x)
    for parameter_name, parameter in trained(twin).items():
        direction = torch.randn(parameter.shape, generator=seeded(8), dtype=torch.float64)
        if parameter_name == "energy_curvature" and direction.ndim == 2:
            direction = direction + direction.mT
        values = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                parameter.add_(step * direction)
                values.append(float(twin.log_evidence(x).mean()))
                parameter.sub_(step * direction)
        slope = float((gradient[parameter_name] * direction).sum())
        assert (values[0] - values[1]) / 2e-5 == pytest.approx(slope, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("name", TWINS)
def test_derivatives_in_t_are_the_moments_they_should_be(name):
    """d/dt log Z_t = E_t[l], d/dt E_t[l] = Var_t(l), d/dt E_t[∇] = Cov_t(l, ∇), by central differences."""
    twin, x = make_twin(name)
    t, step = torch.tensor([0.05, 0.5, 0.9], dtype=torch.float64), 1e-5

    def slope(function):
        return (function(t + step) - function(t - step)) / (2 * step)

    with torch.no_grad():
        log_evidence = slope(lambda t: twin.log_power_evidence(x, t))
        mean = slope(lambda t: twin.expected_log_likelihood(x, t))
        torch.testing.assert_close(log_evidence, twin.expected_log_likelihood(x, t), rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(mean, twin.variance_log_likelihood(x, t), rtol=1e-6, atol=1e-8)
    upper, lower = twin.expected_gradients(x, t + step), twin.expected_gradients(x, t - step)
    slopes = {name: (upper[name] - lower[name]) / (2 * step) for name in upper}
    assert_same(twin.covariance_gradients(x, t), slopes, 1e-6)


@pytest.mark.parametrize("name", TWINS)
def test_thermodynamic_integrals(name):
    """The integral of E_t[l] is log p(x); that of E_t[∇l] + t Cov_t(l, ∇l) telescopes to E_1[∇l]."""
    twin, x = make_twin(name)
    nodes, weights = unit_interval_nodes()
    with torch.no_grad():
        mean = twin.expected_log_likelihood(x, nodes)
        log_evidence = twin.log_evidence(x)
    torch.testing.assert_close(torch.einsum("k,kb->b", weights, mean), log_evidence, rtol=1e-9, atol=0)
    complete = twin.gradient_target(x, nodes, weights, weights * nodes)
    integrated_covariance = twin.gradient_target(x, nodes, torch.zeros_like(nodes), weights)
    exact = twin.evidence_gradient(x)
    groups = twin.parameter_groups()
    for parameter in groups["generator"]:
        torch.testing.assert_close(complete[parameter], exact[parameter], rtol=1e-7, atol=1e-9)
    for parameter in groups["prior"]:
        torch.testing.assert_close(-integrated_covariance[parameter], exact[parameter], rtol=1e-7, atol=1e-9)
    t = power_schedule(11, 2.0)
    with torch.no_grad():
        rungs = twin.expected_log_likelihood(x, t)
    assert (left_sum(t, rungs) < log_evidence).all()
    assert (log_evidence < right_sum(t, rungs)).all()


@pytest.mark.parametrize("name", TWINS)
def test_gradient_targets_of_the_ends(name):
    twin, x = make_twin(name)
    t = linear_schedule(4)
    top, bottom, none = torch.eye(4).double()[3], torch.eye(4).double()[0], torch.zeros(4).double()
    likelihood, contrast = (
        twin.gradient_target(x, t, top, none),
        twin.gradient_target(x, t, bottom - top, none),
    )
    groups, exact = twin.parameter_groups(), twin.evidence_gradient(x)
    for parameter in groups["generator"]:
        torch.testing.assert_close(likelihood[parameter], exact[parameter])
    for parameter in groups["prior"]:
        torch.testing.assert_close(contrast[parameter], exact[parameter])


@pytest.mark.parametrize("name", TWINS)
def test_the_detached_target_is_the_gradient_of_j_and_not_of_the_evidence(name):
    """Catches the peers that take the detached thermodynamic gradient for that of log p(x)."""
    twin, x = make_twin(name)
    parameters = trained(twin)
    gradients = torch.autograd.grad(twin.detached_objective(x).mean(), list(parameters.values()))
    detached = twin.detached_objective_gradient(x)
    assert_same(detached, dict(zip(parameters, gradients, strict=True)), 1e-8)
    assert (twin.detached_objective(x) < twin.log_evidence(x)).all()
    exact = twin.evidence_gradient(x)
    assert all((detached[key] - exact[key]).norm() > 0.05 * exact[key].norm() for key in exact)
    nodes, weights = unit_interval_nodes()
    with torch.no_grad():
        other_form = -(weights * nodes.log()) @ twin.expected_log_likelihood(x, nodes)
        torch.testing.assert_close(other_form, twin.detached_objective(x), rtol=1e-8, atol=0)


def test_autograd_of_the_expected_log_likelihood_has_the_covariance_term():
    twin = linear_twin(FULL_CURVATURE)
    x = twin.sample_images(4, seeded(0))
    expected = torch.autograd.grad(twin.expected_log_likelihood(x, 0.3).mean(), list(trained(twin).values()))
    mean, covariance = twin.expected_gradients(x, 0.3), twin.covariance_gradients(x, 0.3)
    formula = {name: mean[name] + 0.3 * covariance[name] for name in ("weight", "bias")}
    formula["energy_curvature"] = -covariance["energy_curvature"]
    assert_same(formula, dict(zip(trained(twin), expected, strict=True)), 1e-10)


# The two twins against each other


@pytest.mark.parametrize(
    ("curvature", "num_points"),
    [
        (None, 161),
        (torch.tensor([0.7]), 161),
        (FULL_CURVATURE[:2, :2], 111),
        (FULL_CURVATURE.diagonal()[:2], 111),
    ],
)
def test_grid_agrees_with_the_closed_form(curvature, num_points):
    latent_dim = 1 if curvature is None else curvature.shape[0]
    twin = linear_twin(curvature, latent_dim, num_pixels=4)
    grid = GridTwin(twin, num_points, half_width=11)
    x = twin.sample_images(3, seeded(0))
    t = TEMPERATURES
    assert grid.edge_mass(x) < 1e-9
    for method in ("log_power_evidence", "expected_log_likelihood", "variance_log_likelihood"):
        torch.testing.assert_close(
            getattr(grid, method)(x, t), getattr(twin, method)(x, t), rtol=1e-8, atol=1e-10
        )
    for method in ("expected_gradients", "covariance_gradients"):
        assert_same(getattr(grid, method)(x, t), getattr(twin, method)(x, t), 1e-8)
    assert_same(grid.evidence_gradient(x), twin.evidence_gradient(x), 1e-8)
    posterior = twin.power_posterior(x, t)
    torch.testing.assert_close(grid.expectation(lambda z: z, x, t), posterior.mean, rtol=1e-8, atol=1e-10)
    first_square = posterior.mean[..., 0].square() + posterior.variance[..., 0]
    torch.testing.assert_close(grid.expectation(lambda z: z[:, 0].square(), x, t), first_square)


@pytest.mark.parametrize(("latent_dim", "curvature"), [(1, None), (2, FULL_CURVATURE[:2, :2])])
def test_halving_the_spacing_shows_the_exponential_error_of_a_smooth_model(latent_dim, curvature):
    twin = linear_twin(curvature, latent_dim, num_pixels=4)
    x = twin.sample_images(3, seeded(0))
    with torch.no_grad():
        exact = twin.log_evidence(x)
        values = [GridTwin(twin, num_points, half_width=10).log_evidence(x) for num_points in (21, 41, 81)]
    errors = [float((value - exact).abs().max()) for value in values]
    changes = [float((finer - coarser).abs().max()) for coarser, finer in pairwise(values)]
    assert errors[0] > 1e-4  # the coarse grid is visibly wrong
    assert errors[1] < errors[0] / 1000
    assert errors[2] < 1e-10
    assert changes[0] == pytest.approx(errors[0], rel=0.01)  # what halving shows is the error


def test_halving_the_spacing_shows_the_quadratic_error_of_a_generator_with_kinks():
    """LeakyReLU bends the log-likelihood sharply, so the error falls with the square of the spacing alone."""
    model, x = network_model(2), make_twin("grid 2")[1]
    with torch.no_grad():
        values = [GridTwin(model, num_points, half_width=7).log_evidence(x) for num_points in (61, 121, 241)]
    first, second = (float((finer - coarser).abs().max()) for coarser, finer in pairwise(values))
    assert second < first / 3
    assert second < 3e-3


# Brute force


@pytest.mark.parametrize("name", CURVATURES)
def test_draws_of_the_linear_twin_have_the_stated_moments(name):
    twin = linear_twin(CURVATURES[name])
    x = twin.sample_images(2, seeded(0))
    draws = twin.sample_power_posterior(x, TEMPERATURES, 20_000, seeded(1))
    assert draws.shape == (4, 20_000, 2, 3)
    posterior = twin.power_posterior(x, TEMPERATURES)
    draws = draws.transpose(0, 1)
    assert largest_z(draws, posterior.mean) < 4
    centred = draws - posterior.mean
    assert largest_z(centred.unsqueeze(-1) * centred.unsqueeze(-2), posterior.covariance_matrix) < 4
    with torch.no_grad():
        log_likelihood = twin.log_likelihood(x, draws)
        mean = twin.expected_log_likelihood(x, TEMPERATURES)
        assert largest_z(log_likelihood, mean) < 4
        assert largest_z((log_likelihood - mean).square(), twin.variance_log_likelihood(x, TEMPERATURES)) < 4
    prior = twin.sample_prior(20_000, seeded(2))
    assert largest_z(prior.unsqueeze(-1) * prior.unsqueeze(-2), twin.prior().covariance_matrix) < 4


@pytest.mark.parametrize("name", CURVATURES)
def test_gradient_moments_of_the_linear_twin_by_monte_carlo(name):
    twin = linear_twin(CURVATURES[name])
    x = twin.sample_images(2, seeded(0))
    t = torch.tensor([0.0, 0.1, 1.0], dtype=torch.float64)
    z = twin.sample_power_posterior(x, t, 20_000, seeded(3)).transpose(0, 1)  # (n, K, B, d)
    with torch.no_grad():
        excess = twin.log_likelihood(x, z) - twin.expected_log_likelihood(x, t)
    residual = ((x - twin.bias - z @ twin.weight.mT) / 0.25).detach()
    draws = {"bias": residual, "weight": residual.unsqueeze(-1) * z.unsqueeze(-2)}
    if name != "no energy":
        outer = z.unsqueeze(-1) * z.unsqueeze(-2) / 2
        draws["energy_curvature"] = outer if name == "full" else outer.diagonal(dim1=-2, dim2=-1)
    expected, covariance = twin.expected_gradients(x, t), twin.covariance_gradients(x, t)
    variance = twin.posterior_gradient_variance(x)
    assert draws.keys() == expected.keys() == covariance.keys() == variance.keys()
    for key, values in draws.items():
        tilt = excess.view(*excess.shape, *[1] * (values.ndim - 3))
        assert largest_z(values.mean(2), expected[key]) < 4
        assert largest_z((tilt * values).mean(2), covariance[key]) < 4
        estimator = values.mean(2)[:, -1]  # one posterior draw per image: maximum likelihood with M = 1
        assert largest_z((estimator - expected[key][-1]).square(), variance[key]) < 4


def test_images_of_the_linear_twin_follow_its_evidence():
    twin = linear_twin(FULL_CURVATURE)
    x = twin.sample_images(40_000, seeded(0))
    with torch.no_grad():
        marginal = twin.weight @ twin.prior().covariance_matrix @ twin.weight.mT
        marginal = marginal + 0.25 * torch.eye(5, dtype=torch.float64)
        assert largest_z(x, twin.bias) < 4
        centred = x - twin.bias
        assert largest_z(centred.unsqueeze(-1) * centred.unsqueeze(-2), marginal) < 4


@pytest.mark.parametrize("name", ["grid 1", "grid 2", "grid 1 bernoulli"])
def test_grid_evidence_by_monte_carlo_over_continuous_latents(name):
    """log p(x) = log E[exp(l - E)] - log E[exp(-E)] over the base distribution, error by the delta method."""
    coarse, x = make_twin(name)
    assert isinstance(coarse, GridTwin)
    twin = GridTwin(coarse.model, 241 if coarse.model.latent_dim == 2 else 801, half_width=7)
    with torch.no_grad():
        z = twin.model.sample_base((100_000,), seeded(9))
        tilt = (-twin.model.energy(z)).exp()
        z = z.unsqueeze(1).expand(-1, len(x), -1)
        joint = tilt.unsqueeze(-1) * twin.model.log_likelihood(x, z).exp()
        relative = joint / joint.mean(0) - (tilt / tilt.mean()).unsqueeze(-1)
        error = relative.std(0) / math.sqrt(len(z))
        estimate = joint.mean(0).log() - tilt.mean().log()
        assert (((estimate - twin.log_evidence(x)) / error).abs() < 4).all()
        assert (error < 0.05).all()


@pytest.mark.parametrize("name", ["grid 1", "grid 2"])
def test_draws_of_the_grid_have_its_moments(name):
    twin, x = make_twin(name)
    assert isinstance(twin, GridTwin)
    draws = twin.sample_power_posterior(x, TEMPERATURES, 20_000, seeded(1))
    assert draws.shape == (4, 20_000, len(x), twin.model.latent_dim)
    draws = draws.transpose(0, 1)
    for function in (lambda z: z, lambda z: z.square(), torch.cos):
        assert largest_z(function(draws), twin.expectation(function, x, TEMPERATURES)) < 4
    with torch.no_grad():
        log_likelihood = twin.model.log_likelihood(x, draws)
        mean = twin.expected_log_likelihood(x, TEMPERATURES)
        variance = twin.variance_log_likelihood(x, TEMPERATURES)
    assert largest_z(log_likelihood, mean) < 4
    assert largest_z((log_likelihood - mean).square(), variance) < 4
    prior = twin.sample_prior(20_000, seeded(2))
    assert largest_z(prior, twin.expectation(lambda z: z, x, 0.0)[0]) < 4
    assert torch.equal(
        twin.sample_power_posterior(x, TEMPERATURES, 5, seeded(1)),
        twin.sample_power_posterior(x, TEMPERATURES, 5, seeded(1)),
    )


# Numbers of the theory


def root(gradient) -> float:
    """Return the weight where a gradient that falls through zero is zero."""
    low, high = 1e-3, 2.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if gradient(middle) > 0 else (low, middle)
    return low


@pytest.mark.parametrize(
    ("variance", "likelihood", "continuum", "ladders"),
    [
        (0.09, 0.954, 0.752, {0.1: 0.472, 0.3: 0.572, 1: 0.733, 3: 0.746, 10: 0.720}),
        (0.01, 0.995, 0.880, {0.1: 0.338, 0.3: 0.423, 1: 0.688, 3: 0.866, 10: 0.861}),
    ],
)
def test_the_optimal_decoder_of_j_is_shrunk(variance, likelihood, continuum, ladders):
    """The scalar toy x ~ N(0, 1): the gradient is linear in x^2, so x = ±1 stands for all of it."""
    x = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)

    def twin(weight):
        return LinearGaussian(torch.tensor([[weight]]), torch.zeros(1), math.sqrt(variance))

    def detached(weight, power):
        t = power_schedule(11, power)
        return twin(weight).gradient_target(x, t, trapezoid_weights(t), torch.zeros_like(t))["weight"]

    assert round(root(lambda w: twin(w).evidence_gradient(x)["weight"]), 3) == likelihood
    assert round(root(lambda w: twin(w).detached_objective_gradient(x)["weight"]), 3) == continuum
    for power, expected in ladders.items():
        assert round(root(lambda w, p=power: detached(w, p)), 3) == expected


def test_distances_to_the_exact_gradient_at_the_settings_of_the_theory():
    """One batch of 64 against the table, whose digits came from another batch: within a tenth."""
    twin = LinearGaussian.random(16, 256, 0.3, 0.08, seed=0)
    x = twin.sample_images(64, seeded(1))
    exact = twin.evidence_gradient(x)["weight"]
    for power, detached, complete in ((0.3, 0.63, 0.58), (1.0, 0.22, 0.085), (3.0, 0.19, 0.0055)):
        t = power_schedule(11, power)
        weights = trapezoid_weights(t)
        for covariance, expected in ((torch.zeros_like(t), detached), (weights * t, complete)):
            target = twin.gradient_target(x, t, weights, covariance)["weight"]
            assert float((target - exact).norm() / exact.norm()) == pytest.approx(expected, rel=0.15)
    deviation = twin.posterior_gradient_variance(x)["weight"].sum().sqrt() / exact.norm()
    assert float(deviation) == pytest.approx(0.36, rel=0.1)


# Bad input

EYE = torch.eye(2)
BAD_CALLS = [
    (
        lambda: LinearGaussian(torch.ones(3), torch.zeros(3), 0.5),
        r"`weight` must have shape \(D, d\), got \(3,\)",
    ),
    (
        lambda: LinearGaussian(torch.ones(3, 2), torch.zeros(2), 0.5),
        r"`bias` must have shape \(3,\), got \(2,\)",
    ),
    (lambda: LinearGaussian(torch.full((2, 2), math.nan), torch.zeros(2), 0.5), "`weight` must be finite"),
    (lambda: LinearGaussian(EYE, torch.zeros(2), 0.0), "`noise_std` must be positive, got 0.0"),
    (lambda: LinearGaussian(EYE, torch.zeros(2), 1.0, torch.ones(3)), "`energy_curvature` must have shape"),
    (
        lambda: LinearGaussian(EYE, torch.zeros(2), 1.0, torch.tensor([[0.0, 1.0], [0.0, 0.0]])),
        "`energy_curvature` must be symmetric, got entries that differ by 1.0",
    ),
    (
        lambda: LinearGaussian(EYE, torch.zeros(2), 1.0, torch.tensor([0.5, -1.0])),
        "`energy_curvature` must have eigenvalues above -1, got -1.0",
    ),
    (
        lambda: linear_twin(None).log_evidence(torch.zeros(4, 6)),
        r"`x` must have shape \(B, 5\), got \(4, 6\)",
    ),
    (
        lambda: linear_twin(None).expected_gradients(torch.zeros(4, 5), 1.2),
        r"`t` must lie in \[0, 1\], got 1.2",
    ),
    (lambda: linear_twin(None).power_posterior(torch.zeros(4, 5), torch.zeros(2, 2)), "`t` must be a number"),
    (
        lambda: linear_twin(None).sample_power_posterior(torch.zeros(4, 5), torch.ones(2), 0, seeded(0)),
        "`num_chains` must be at least 1, got 0",
    ),
    (
        lambda: linear_twin(None).gradient_target(
            torch.zeros(4, 5), torch.ones(2), torch.ones(3), torch.ones(2)
        ),
        r"`rung_coefficients` must have shape \(2,\), got \(3,\)",
    ),
    (lambda: GridTwin(linear_twin(None)), "`latent_dim` must be 1 or 2 for a grid, got 3"),
    (lambda: GridTwin(network_model(1), num_points=1), "`num_points` must be at least 2, got 1"),
    (lambda: GridTwin(network_model(1), half_width=0.0), "`half_width` must be positive, got 0.0"),
    (lambda: GridTwin(network_model(1).float()), "`model` must have float64 parameters"),
    (
        lambda: GridTwin(network_model(1)).log_evidence(torch.zeros(3, 4)),
        r"`x` must have shape \(B, 1, 2, 2\)",
    ),
]


@pytest.mark.parametrize(("call", "message"), BAD_CALLS)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()
