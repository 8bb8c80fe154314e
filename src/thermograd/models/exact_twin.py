r"""What a twin offers: the exact value of everything that the program estimates.

Notation: l(x, z) = log p(x|z), E the energy, E_t, Var_t and Cov_t moments under the power posterior p_t(z|x).

Gradients are dicts from a parameter's name to a tensor. For a parameter of the `generator` they are moments
of ∇l, for one of the `prior` moments of ∇E; both are means over the batch. Inverse temperatures t are a
number or a tensor (K,), and results have t's axes in front.
"""

from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor

from thermograd.errors import InputError

NUM_NODES = 200
"""Gauss-Legendre nodes of integrals over t."""


class ExactTwin(ABC):
    """Exact evidence, power posteriors and gradients of a model small enough to have them."""

    @abstractmethod
    def parameter_groups(self) -> dict[str, list[str]]:
        """Return the names of the parameters of the `prior` and of the `generator`."""

    @abstractmethod
    def log_power_evidence(self, x: Tensor, t: Tensor | float) -> Tensor:
        """Return log of the integral of p(x|z)^t p(z) over z, (*t, B), differentiable in the parameters."""

    @abstractmethod
    def expected_log_likelihood(self, x: Tensor, t: Tensor | float) -> Tensor:
        """Return E_t[l], (*t, B)."""

    @abstractmethod
    def variance_log_likelihood(self, x: Tensor, t: Tensor | float) -> Tensor:
        """Return Var_t(l), (*t, B), which is d/dt E_t[l]."""

    @abstractmethod
    def expected_gradients(self, x: Tensor, t: Tensor | float) -> dict[str, Tensor]:
        """Return E_t[∇l] (generator) and E_t[∇E] (prior), each (*t, *parameter), means over the batch."""

    @abstractmethod
    def covariance_gradients(self, x: Tensor, t: Tensor | float) -> dict[str, Tensor]:
        """Return Cov_t(l, ∇l) (generator) and Cov_t(l, ∇E) (prior), each (*t, *parameter)."""

    @abstractmethod
    def sample_power_posterior(
        self, x: Tensor, t: Tensor, num_chains: int, generator: torch.Generator
    ) -> Tensor:
        """Return independent draws of every rung's power posterior, (K, M, B, d)."""

    def log_evidence(self, x: Tensor) -> Tensor:
        """Return log p(x), (B,), differentiable in the parameters."""
        return self.log_power_evidence(x, 1.0)

    def evidence_gradient(self, x: Tensor) -> dict[str, Tensor]:
        """Return the gradient of the batch's mean log evidence.

        Fisher's identity: E_1[∇l] for the generator, E_0[∇E] - E_1[∇E] for the prior.
        """
        ends = self.expected_gradients(x, torch.tensor([0.0, 1.0], dtype=torch.float64))
        prior = set(self.parameter_groups()["prior"])
        return {name: end[0] - end[1] if name in prior else end[1] for name, end in ends.items()}

    def gradient_target(
        self,
        x: Tensor,
        inverse_temperatures: Tensor,
        rung_coefficients: Tensor,
        covariance_coefficients: Tensor,
    ) -> dict[str, Tensor]:
        r"""Return sum_k c_k E_k[∇l] + d_k Cov_k(l, ∇l), with ∇E for the prior: the target of every estimator.

        Maximum likelihood is c = (0, ..., 0, 1), d = 0; the detached thermodynamic estimator c = w, d = 0,
        and the complete one c = w, d = w t, with w the quadrature weights; the prior's contrast of ends c =
        (1, 0, ..., 0, -1).

        Args:
            x: images (B, *image_shape).
            inverse_temperatures: (K,).
            rung_coefficients: c, (K,).
            covariance_coefficients: d, (K,).

        Raises:
            InputError: coefficients of another length than the temperatures.
        """
        for name, value in (
            ("rung_coefficients", rung_coefficients),
            ("covariance_coefficients", covariance_coefficients),
        ):
            if value.shape != inverse_temperatures.shape:
                raise InputError(
                    f"`{name}` must have shape {tuple(inverse_temperatures.shape)}, got {tuple(value.shape)}."
                )
        expected = self.expected_gradients(x, inverse_temperatures)
        covariance = self.covariance_gradients(x, inverse_temperatures)
        return {
            name: _contract(rung_coefficients, expected[name])
            + _contract(covariance_coefficients, covariance[name])
            for name in expected
        }

    def detached_objective(self, x: Tensor) -> Tensor:
        r"""Return J(x), the integral of log Z_t(x) / t over t, (B,), with log Z_t `log_power_evidence`.

        It is what the detached thermodynamic gradient ascends in the continuum. It lies below log p(x), since
        log Z_t / t rises with t.
        """
        t, weights = unit_interval_nodes()
        return torch.einsum("k,kb->b", weights / t, self.log_power_evidence(x, t))

    def detached_objective_gradient(self, x: Tensor) -> dict[str, Tensor]:
        r"""Return the gradient of the batch's mean J: the detached estimators' target in the continuum.

        Generator: the integral of E_t[∇l]; prior: the integral of (E_0[∇E] - E_t[∇E]) / t.
        """
        t, weights = unit_interval_nodes()
        moments = self.expected_gradients(x, torch.cat([t.new_zeros(1), t]))
        gradients = {}
        for name in self.parameter_groups()["generator"]:
            gradients[name] = _contract(weights, moments[name][1:])
        for name in self.parameter_groups()["prior"]:
            gradients[name] = _contract(weights / t, moments[name][0] - moments[name][1:])
        return gradients


def check_temperatures(t: Tensor | float) -> Tensor:
    """Return t as a float64 tensor, () or (K,).

    Raises:
        InputError: more than one axis, or a value outside [0, 1].
    """
    values = torch.as_tensor(t, dtype=torch.float64)
    if values.ndim > 1:
        raise InputError(f"`t` must be a number or have shape (K,), got {tuple(values.shape)}.")
    bad = values[~((values >= 0) & (values <= 1))]
    if len(bad):
        raise InputError(f"`t` must lie in [0, 1], got {float(bad[0])}.")
    return values


def unit_interval_nodes() -> tuple[Tensor, Tensor]:
    """Return Gauss-Legendre nodes and weights on [0, 1], crowded at 0 by t = u^4.

    Power posteriors change fastest near t = 0, at a t of the order of s^2 over the largest eigenvalue of W^T
    W.
    """
    nodes, weights = np.polynomial.legendre.leggauss(NUM_NODES)
    u = torch.from_numpy((1 + nodes) / 2)
    return u**4, torch.from_numpy(weights / 2) * 4 * u**3


def _contract(coefficients: Tensor, values: Tensor) -> Tensor:
    return torch.einsum("k,k...->...", coefficients.to(values), values)
