r"""The quadrature twin: any model with one or two latent numbers, by summing over a grid of latents.

With nodes z_g, prior masses pi_g ∝ exp(-E(z_g)) N(z_g; 0, s0^2 I) and log-likelihoods l_g = log p(x|z_g),

    p_t(z_g|x) = pi_g exp(t l_g) / Z_t,   Z_t = sum_g pi_g exp(t l_g),   log p(x) = log Z_1.

An even grid converges exponentially on a smooth density: for a Gaussian of standard deviation σ and spacing
h the relative error is about 2 exp(-2 pi^2 σ^2 / h^2), 5e-9 at h = σ. A generator with kinks (LeakyReLU)
makes it converge like h^2 only. Halve the spacing to see the error, and look at `edge_mass` to see whether
the grid is wide enough. Gradients are exact derivatives of the sums, whatever the spacing.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from thermograd.errors import InputError
from thermograd.models.exact_twin import ExactTwin, check_temperatures
from thermograd.models.latent_model import LatentModel


class GridTwin(ExactTwin):
    """Sums over an even grid of latents in place of the integrals over z, in float64 throughout.

    The twin reads the model's parameters as they are at each call.

    Args:
        model: any `LatentModel` with latent_dim 1 or 2 and float64 parameters.
        num_points: points along each axis.
        half_width: the grid spans [-half_width, half_width] along each axis, in units of the model's
            `base_std`.

    Attributes:
        nodes: (G, d), the grid's latents.

    Raises:
        InputError: more than two latent numbers, parameters that are not float64, or a grid without extent.

    Example:
        >>> twin = tg.LinearGaussian.random(2, 8, noise_std=0.5, weight_scale=0.5, seed=0)
        >>> x = twin.sample_images(4, torch.Generator().manual_seed(1))
        >>> exact = tg.GridTwin(twin).log_evidence(x)
        >>> torch.allclose(exact, twin.log_evidence(x))
        True
    """

    def __init__(self, model: LatentModel, num_points: int = 201, half_width: float = 8.0):
        if model.latent_dim not in (1, 2):
            raise InputError(f"`latent_dim` must be 1 or 2 for a grid, got {model.latent_dim}.")
        if num_points < 2:
            raise InputError(f"`num_points` must be at least 2, got {num_points}.")
        if not 0 < half_width < float("inf"):
            raise InputError(f"`half_width` must be positive, got {half_width}.")
        for name, parameter in model.named_parameters():
            if parameter.dtype != torch.float64:
                raise InputError(
                    f"`model` must have float64 parameters for a grid, got {parameter.dtype} in {name}."
                )
        self.model = model
        device = next(model.parameters()).device
        span = half_width * model.base_std
        axis = torch.linspace(-span, span, num_points, dtype=torch.float64, device=device)
        self.nodes = torch.cartesian_prod(*[axis] * model.latent_dim).view(-1, model.latent_dim)
        self._on_edge = (self.nodes.abs() >= axis[-1]).any(-1)

    def parameter_groups(self) -> dict[str, list[str]]:
        """Return the names of the parameters of the `prior` and of the `generator`."""
        return self.model.parameter_groups()

    def log_power_evidence(self, x: Tensor, t: Tensor | float) -> Tensor:
        """Return log sum_g pi_g exp(t l_g), (*t, B), differentiable in all parameters."""
        t = check_temperatures(t).to(self.nodes)
        tilted = t[..., None, None] * self._log_likelihood(x) + self._log_prior_masses().unsqueeze(-1)
        return tilted.logsumexp(-2)

    @torch.no_grad()
    def masses(self, x: Tensor, t: Tensor | float) -> Tensor:
        """Return the probability p_t(z_g|x) of every node, (*t, G, B)."""
        return self._masses(self._log_likelihood(x), t)

    @torch.no_grad()
    def expectation(self, function: Callable[[Tensor], Tensor], x: Tensor, t: Tensor | float) -> Tensor:
        """Return E_t[f(z)], (*t, B, ...), for a function from latents (G, d) to (G, ...)."""
        values = function(self.nodes)
        moments = self.masses(x, t).mT @ values.reshape(len(values), -1)
        return moments.view(*moments.shape[:-1], *values.shape[1:])

    @torch.no_grad()
    def expected_log_likelihood(self, x: Tensor, t: Tensor | float) -> Tensor:
        """Return E_t[l], (*t, B)."""
        log_likelihood = self._log_likelihood(x)
        return (self._masses(log_likelihood, t) * log_likelihood).sum(-2)

    @torch.no_grad()
    def variance_log_likelihood(self, x: Tensor, t: Tensor | float) -> Tensor:
        """Return Var_t(l), (*t, B)."""
        log_likelihood = self._log_likelihood(x)
        masses = self._masses(log_likelihood, t)
        return (masses * _centred(log_likelihood, masses).square()).sum(-2)

    def evidence_gradient(self, x: Tensor) -> dict[str, Tensor]:
        """Return the gradient of the batch's mean log evidence, by differentiating log p(x) itself."""
        names, parameters = zip(*self.model.named_parameters(), strict=True)
        with torch.enable_grad():
            gradients = torch.autograd.grad(self.log_evidence(x).mean(), parameters)
        return dict(zip(names, gradients, strict=True))

    def expected_gradients(self, x: Tensor, t: Tensor | float) -> dict[str, Tensor]:
        """Return E_t[∇l] (generator) and E_t[∇E] (prior), each (*t, *parameter), means over the batch."""
        return self._moment_gradients(x, t, covariance=False)

    def covariance_gradients(self, x: Tensor, t: Tensor | float) -> dict[str, Tensor]:
        """Return Cov_t(l, ∇l) (generator) and Cov_t(l, ∇E) (prior), each (*t, *parameter)."""
        return self._moment_gradients(x, t, covariance=True)

    @torch.no_grad()
    def sample_power_posterior(
        self, x: Tensor, t: Tensor, num_chains: int, generator: torch.Generator
    ) -> Tensor:
        """Return independent draws of nodes by their probabilities, (K, M, B, d).

        Their expectations are exactly this twin's sums.

        Raises:
            InputError: temperatures that are not (K,), or `num_chains` below 1.
        """
        masses = self.masses(x, t)
        if masses.ndim != 3:
            raise InputError(f"`t` must have shape (K,), got {tuple(masses.shape[:-2])}.")
        if num_chains < 1:
            raise InputError(f"`num_chains` must be at least 1, got {num_chains}.")
        num_rungs, _, num_images = masses.shape
        rows = masses.transpose(1, 2).flatten(0, 1)
        picked = torch.multinomial(rows, num_chains, replacement=True, generator=generator)
        return self.nodes[picked].view(num_rungs, num_images, num_chains, -1).transpose(1, 2)

    @torch.no_grad()
    def sample_prior(self, num: int, generator: torch.Generator) -> Tensor:
        """Return independent draws of nodes by their prior masses, (num, d)."""
        masses = self._log_prior_masses().exp()
        return self.nodes[torch.multinomial(masses, num, replacement=True, generator=generator)]

    @torch.no_grad()
    def edge_mass(self, x: Tensor) -> float:
        """Return the largest mass of the prior or a posterior on the grid's edge, near 0 if wide enough."""
        masses = self.masses(x, torch.tensor([0.0, 1.0], dtype=torch.float64))
        return float(masses[:, self._on_edge].sum(1).max())

    def _log_prior_masses(self) -> Tensor:
        return self.model.log_prior(self.nodes).log_softmax(0)

    def _log_likelihood(self, x: Tensor) -> Tensor:
        """Return l at every node, (G, B)."""
        if x.shape[1:] != self.model.image_shape:
            wanted = ", ".join(map(str, self.model.image_shape))
            raise InputError(f"`x` must have shape (B, {wanted}), got {tuple(x.shape)}.")
        latents = self.nodes.unsqueeze(1).expand(-1, len(x), -1)
        return self.model.log_likelihood(x.to(self.nodes), latents)

    def _masses(self, log_likelihood: Tensor, t: Tensor | float) -> Tensor:
        t = check_temperatures(t).to(self.nodes)
        return (t[..., None, None] * log_likelihood + self._log_prior_masses().unsqueeze(-1)).softmax(-2)

    def _moment_gradients(self, x: Tensor, t: Tensor | float, *, covariance: bool) -> dict[str, Tensor]:
        """Differentiate sums of l and of E with weights held constant: one backward pass per temperature."""
        parameters = dict(self.model.named_parameters())
        groups = self.parameter_groups()
        with torch.enable_grad():
            values = {
                "generator": self._log_likelihood(x),
                "prior": self.model.energy(self.nodes).unsqueeze(-1).expand(-1, len(x)),
            }
        log_likelihood = values["generator"].detach()
        with torch.no_grad():
            weights = self._masses(log_likelihood, t)
            if covariance:
                weights = weights * _centred(log_likelihood, weights)
        moments = {}
        for group, names in groups.items():
            if not names:
                continue
            wanted = [parameters[name] for name in names]
            rows = [
                torch.autograd.grad(values[group], wanted, row / len(x), retain_graph=True)
                for row in weights.reshape(-1, *log_likelihood.shape)
            ]
            for name, gradients in zip(names, zip(*rows, strict=True), strict=True):
                moments[name] = torch.stack(gradients).view(*weights.shape[:-2], *gradients[0].shape)
        return moments


def _centred(log_likelihood: Tensor, masses: Tensor) -> Tensor:
    return log_likelihood - (masses * log_likelihood).sum(-2, keepdim=True)
