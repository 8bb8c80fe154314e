r"""The closed-form twin: a linear generator under a Gaussian prior, with every answer exact.

    prior            E(z) = z^T C z / 2,  p(z) = N(0, A^-1) with A = I + C
    likelihood       x|z ~ N(W z + b, s^2 I)
    power posterior  p_t(z|x) = N(m_t, S_t),  S_t^-1 = A + t W^T W / s^2,  m_t = t S_t W^T (x - b) / s^2

With u = z - m_t, e = x - b - W m_t and G = W^T W, the log-likelihood is the quadratic

    l = -(e^T e - 2 e^T W u + u^T G u) / (2 s^2) - (D/2) log(2 pi s^2),

so that every moment of l, ∇l and ∇E follows from the first four moments of a Gaussian.
"""

import math

import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from thermograd.errors import InputError
from thermograd.models.exact_twin import ExactTwin, check_temperatures
from thermograd.models.latent_model import LatentModel


class LinearGaussian(LatentModel, ExactTwin):
    """Linear generator, Gaussian likelihood, quadratic energy; parameters and answers in float64.

    Args:
        weight: W, (D, d).
        bias: b, (D,).
        noise_std: s, the likelihood's standard deviation, in the units of x.
        energy_curvature: C, (d, d) symmetric or (d,) for a diagonal, with I + C positive definite; None for
            no energy.

    Raises:
        InputError: a wrong shape, a value that is not finite, `noise_std` not positive, C not symmetric, or
            I + C not positive definite.

    Example:
        >>> twin = tg.LinearGaussian.random(2, 8, noise_std=0.5, weight_scale=0.5, seed=0)
        >>> x = twin.sample_images(4, torch.Generator().manual_seed(1))
        >>> twin.log_evidence(x).shape
        torch.Size([4])
    """

    def __init__(
        self, weight: Tensor, bias: Tensor, noise_std: float, energy_curvature: Tensor | None = None
    ):
        super().__init__()
        if weight.ndim != 2 or weight.numel() == 0:
            raise InputError(f"`weight` must have shape (D, d), got {tuple(weight.shape)}.")
        num_pixels, latent_dim = weight.shape
        if bias.shape != (num_pixels,):
            raise InputError(f"`bias` must have shape ({num_pixels},), got {tuple(bias.shape)}.")
        for name, value in (("weight", weight), ("bias", bias)):
            if not value.isfinite().all():
                raise InputError(f"`{name}` must be finite, got a value that is not.")
        if not noise_std > 0 or not math.isfinite(noise_std):
            raise InputError(f"`noise_std` must be positive, got {noise_std}.")
        self.weight = nn.Parameter(weight.detach().double().clone())
        self.bias = nn.Parameter(bias.detach().double().clone())
        self.energy_curvature: nn.Parameter | None = None
        if energy_curvature is not None:
            _check_curvature(energy_curvature, latent_dim)
            self.energy_curvature = nn.Parameter(energy_curvature.detach().double().clone())
        self.noise_std = noise_std
        self.latent_dim = latent_dim
        self.base_std = 1.0
        self.image_shape = (num_pixels,)

    @classmethod
    def random(
        cls,
        latent_dim: int,
        num_pixels: int,
        noise_std: float,
        weight_scale: float,
        seed: int,
        energy_curvature: Tensor | None = None,
    ) -> "LinearGaussian":
        """Return a twin with W ~ `weight_scale` N(0, 1) and b = 0."""
        generator = torch.Generator().manual_seed(seed)
        weight = torch.randn(num_pixels, latent_dim, generator=generator, dtype=torch.float64) * weight_scale
        return cls(weight, torch.zeros(num_pixels, dtype=torch.float64), noise_std, energy_curvature)

    def energy(self, z: Tensor) -> Tensor:
        """Return z^T C z / 2, (..., d) to (...)."""
        if self.energy_curvature is None:
            return (0 * z).sum(-1)  # a graph is kept, since callers differentiate it in z
        if self.energy_curvature.ndim == 1:
            return (z.square() * self.energy_curvature).sum(-1) / 2
        return ((z @ self.energy_curvature) * z).sum(-1) / 2

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """Return log N(x; W z + b, s^2 I) for images (B, D) and latents (..., B, d), (..., B)."""
        residual = x - self.bias - z @ self.weight.mT
        return -residual.square().sum(-1) / (2 * self.noise_std**2) - self._constant()

    def decode(self, z: Tensor) -> Tensor:
        """Return the mean images of latents (..., d) as (..., D), without a graph."""
        return (z @ self.weight.mT + self.bias).detach()

    def parameter_groups(self) -> dict[str, list[str]]:
        """Return the names of the parameters of the `prior` and of the `generator`."""
        return {
            "prior": [] if self.energy_curvature is None else ["energy_curvature"],
            "generator": ["weight", "bias"],
        }

    def log_partition(self) -> Tensor:
        """Return log Z = -log|A| / 2, the log of E[exp(-E(z))] under the base distribution, ()."""
        return -torch.linalg.slogdet(self._prior_precision()).logabsdet / 2

    def log_power_evidence(self, x: Tensor, t: Tensor | float) -> Tensor:
        """Return log of the integral of p(x|z)^t p(z) over z, (*t, B)."""
        t = self._temperatures(t)
        mean, covariance, residual = self._moments(x, t)
        prior_term = ((mean @ self._prior_precision()) * mean).sum(-1)
        fit = t.unsqueeze(-1) * (residual.square().sum(-1) / (2 * self.noise_std**2) + self._constant())
        log_volume = torch.linalg.slogdet(covariance).logabsdet.unsqueeze(-1) / 2 - self.log_partition()
        return log_volume - fit - prior_term / 2

    def prior(self) -> MultivariateNormal:
        """Return p(z) = N(0, A^-1)."""
        mean = self.weight.new_zeros(self.latent_dim)
        return MultivariateNormal(mean, precision_matrix=self._prior_precision().detach())

    def power_posterior(self, x: Tensor, t: Tensor | float) -> MultivariateNormal:
        """Return p_t(z|x), a distribution with batch axes (*t, B)."""
        with torch.no_grad():
            mean, covariance, _ = self._moments(x, self._temperatures(t))
        return MultivariateNormal(mean, covariance_matrix=covariance.unsqueeze(-3))

    def expected_log_likelihood(self, x: Tensor, t: Tensor | float) -> Tensor:
        """Return E_t[l], (*t, B), differentiable in the parameters."""
        _, covariance, residual = self._moments(x, self._temperatures(t))
        spread = ((self.weight @ covariance) * self.weight).sum((-2, -1)).unsqueeze(-1)
        return -(residual.square().sum(-1) + spread) / (2 * self.noise_std**2) - self._constant()

    def variance_log_likelihood(self, x: Tensor, t: Tensor | float) -> Tensor:
        """Return Var_t(l) = (e^T W S W^T e + tr(G S G S) / 2) / s^4, (*t, B)."""
        _, covariance, residual = self._moments(x, self._temperatures(t))
        slope = residual @ self.weight
        linear = ((slope @ covariance) * slope).sum(-1)
        product = self.weight.mT @ self.weight @ covariance
        quadratic = (product * product.mT).sum((-2, -1)).unsqueeze(-1)
        return (linear + quadratic / 2) / self.noise_std**4

    @torch.no_grad()
    def expected_gradients(self, x: Tensor, t: Tensor | float) -> dict[str, Tensor]:
        """Return E_t[∇l] for `weight` and `bias`, E_t[∇E] for `energy_curvature`, means over the batch."""
        mean, covariance, residual = self._moments(x, self._temperatures(t))
        variance = self.noise_std**2
        gradients = {
            "weight": (_mean_outer(residual, mean) - self.weight @ covariance) / variance,
            "bias": residual.mean(-2) / variance,
        }
        return gradients | self._curvature((_mean_outer(mean, mean) + covariance) / 2)

    @torch.no_grad()
    def covariance_gradients(self, x: Tensor, t: Tensor | float) -> dict[str, Tensor]:
        """Return Cov_t(l, ∇l) for `weight` and `bias`, Cov_t(l, ∇E) for `energy_curvature`.

        Means over the batch. With v = S W^T e they are (e v^T - W v m^T + W S G S) / s^4, -W v / s^4, and
        (m v^T + v m^T - S G S) / (2 s^2).
        """
        mean, covariance, residual = self._moments(x, self._temperatures(t))
        variance = self.noise_std**2
        shift = residual @ self.weight @ covariance
        curvature = covariance @ self.weight.mT @ self.weight @ covariance
        weight = _mean_outer(residual, shift) + self.weight @ (curvature - _mean_outer(shift, mean))
        cross = _mean_outer(mean, shift)
        return {
            "weight": weight / variance**2,
            "bias": -(shift @ self.weight.mT).mean(-2) / variance**2,
        } | self._curvature((cross + cross.mT - curvature) / (2 * variance))

    @torch.no_grad()
    def posterior_gradient_variance(self, x: Tensor) -> dict[str, Tensor]:
        """Return each coordinate's variance in the batch's mean gradient, with one posterior draw per image.

        Of ∇l for `weight` and `bias`, of ∇E for `energy_curvature`, over draws at t = 1. M chains divide it
        by M.

        Returns:
            Dict from name to a tensor of the parameter's shape.
        """
        mean, covariance, residual = self._moments(x, self._temperatures(1.0))
        num_images, precision = len(x), self.noise_std**-4
        cross = self.weight @ covariance  # Cov(W u, u)
        pixel = (cross * self.weight).sum(-1, keepdim=True)  # Var(W u), (D, 1)
        latent = covariance.diagonal()
        mean_square = mean.square().mean(0)
        weight = residual.square().mean(0).unsqueeze(-1) * latent + pixel * mean_square
        weight = weight - 2 * _mean_outer(residual, mean) * cross + pixel * latent + cross.square()
        half = mean_square.unsqueeze(-1) * latent + _mean_outer(mean, mean) * covariance
        curvature = half + half.mT + latent.unsqueeze(-1) * latent + covariance.square()
        variances = {"weight": weight * precision, "bias": pixel.squeeze(-1) * precision}
        variances |= self._curvature(curvature / 4)
        return {name: value / num_images for name, value in variances.items()}

    @torch.no_grad()
    def sample_power_posterior(
        self, x: Tensor, t: Tensor, num_chains: int, generator: torch.Generator
    ) -> Tensor:
        """Return independent draws of p_t(z|x) at temperatures t (K,), (K, M, B, d)."""
        t = self._temperatures(t)
        if t.ndim != 1:
            raise InputError(f"`t` must have shape (K,), got {tuple(t.shape)}.")
        if num_chains < 1:
            raise InputError(f"`num_chains` must be at least 1, got {num_chains}.")
        mean, covariance, _ = self._moments(x, t)
        noise = self.sample_base((len(t), num_chains, len(x)), generator)
        factor = torch.linalg.cholesky(covariance)
        return mean.unsqueeze(1) + torch.einsum("kij,kmbj->kmbi", factor, noise)

    @torch.no_grad()
    def sample_prior(self, num: int, generator: torch.Generator) -> Tensor:
        """Return independent draws of the prior, (num, d)."""
        factor = torch.linalg.cholesky(torch.linalg.inv(self._prior_precision()))
        return self.sample_base((num,), generator) @ factor.mT

    @torch.no_grad()
    def sample_images(self, num: int, generator: torch.Generator) -> Tensor:
        """Return independent draws of x from the model, (num, D)."""
        images = self.decode(self.sample_prior(num, generator))
        noise = torch.randn(images.shape, generator=generator, dtype=images.dtype, device=images.device)
        return images + self.noise_std * noise

    def _constant(self) -> float:
        return self.image_shape[0] * math.log(2 * math.pi * self.noise_std**2) / 2

    def _temperatures(self, t: Tensor | float) -> Tensor:
        return check_temperatures(t).to(self.weight)

    def _prior_precision(self) -> Tensor:
        identity = torch.eye(self.latent_dim, dtype=self.weight.dtype, device=self.weight.device)
        if self.energy_curvature is None:
            return identity
        curvature = self.energy_curvature
        return identity + (torch.diag(curvature) if curvature.ndim == 1 else curvature)

    def _moments(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return mean (*t, B, d), covariance (*t, d, d) and residual e (*t, B, D)."""
        if x.ndim != 2 or x.shape[1:] != self.image_shape:
            raise InputError(f"`x` must have shape (B, {self.image_shape[0]}), got {tuple(x.shape)}.")
        centred = x.to(self.weight) - self.bias
        scale = t[..., None, None] / self.noise_std**2
        covariance = torch.linalg.inv(self._prior_precision() + scale * (self.weight.mT @ self.weight))
        covariance = (covariance + covariance.mT) / 2
        mean = scale * (centred @ self.weight @ covariance)
        return mean, covariance, centred - mean @ self.weight.mT

    def _curvature(self, matrix: Tensor) -> dict[str, Tensor]:
        """Return a moment of z z^T, (..., d, d), in the shape of C; nothing without energy."""
        if self.energy_curvature is None:
            return {}
        is_diagonal = self.energy_curvature.ndim == 1
        return {"energy_curvature": matrix.diagonal(dim1=-2, dim2=-1) if is_diagonal else matrix}


def _mean_outer(left: Tensor, right: Tensor) -> Tensor:
    """Return the batch's mean of left right^T, (..., B, i) and (..., B, j) to (..., i, j)."""
    return left.mT @ right / left.shape[-2]


def _check_curvature(curvature: Tensor, latent_dim: int) -> None:
    if curvature.shape not in ((latent_dim,), (latent_dim, latent_dim)):
        raise InputError(
            f"`energy_curvature` must have shape ({latent_dim},) or ({latent_dim}, {latent_dim}), "
            f"got {tuple(curvature.shape)}."
        )
    if not curvature.isfinite().all():
        raise InputError("`energy_curvature` must be finite, got a value that is not.")
    matrix = (torch.diag(curvature) if curvature.ndim == 1 else curvature).detach().double()
    asymmetry = float((matrix - matrix.mT).abs().max())
    if asymmetry > 1e-12 * float(matrix.abs().max()):
        raise InputError(f"`energy_curvature` must be symmetric, got entries that differ by {asymmetry}.")
    smallest = float(torch.linalg.eigvalsh(matrix)[0])
    if not smallest > -1:
        raise InputError(f"`energy_curvature` must have eigenvalues above -1, got {smallest}.")
