"""A ladder: draws on every rung for every image, which evidence and gradients read."""

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from thermograd.ladders.inference_data import of_chains


@dataclass(frozen=True)
class Ladder:
    """The draws of M chains on K rungs for B images.

    Attributes:
        inverse_temperatures: (K,) of the rungs held for each image, or (K, B) for temperatures per image; the last
            is 1. The first is 0 unless the lower end is shared, where only `prior_latents` stand at t = 0.
        latents: (K, M, B, d).
        log_likelihood: (K, M, B), in nats.
        energy: (K, M, B).
        prior_latents: (M0, d), draws at t = 0 shared by all images, or None.
        score: (K, M, B, d), gradient in z of each rung's own log density, or None.
        prior_score: (M0, d), that of the prior at `prior_latents`, or None.
        num_states: S, states that each chain gives; state s of chain m stands at s M + m on the second axis.

    Example:
        >>> twin = tg.LinearGaussian.random(2, 8, noise_std=0.5, weight_scale=0.5, seed=0)
        >>> x = twin.sample_images(4, torch.Generator().manual_seed(1))
        >>> ladder, _, _ = tg.sample_ladder(twin, x, tg.power_schedule(5, 3.0), torch.Generator())
        >>> ladder
        Ladder(5 rungs, 2 chains, 4 images)
    """

    inverse_temperatures: Tensor
    latents: Tensor
    log_likelihood: Tensor
    energy: Tensor
    prior_latents: Tensor | None = None
    score: Tensor | None = None
    prior_score: Tensor | None = None
    num_states: int = 1

    def __repr__(self) -> str:
        """Return counts, no tensors."""
        return f"Ladder({self.num_rungs} rungs, {self.num_chains} chains, {self.num_images} images)"

    @property
    def num_rungs(self) -> int:
        """Return the number of rungs, both ends counted."""
        return len(self.inverse_temperatures) + (not self.has_prior_rung)

    @property
    def num_draws(self) -> int:
        """Return S M, the number of draws on each rung of an image."""
        return self.latents.shape[1]

    @property
    def num_chains(self) -> int:
        """Return M, the number of chains on each rung of an image."""
        return self.num_draws // self.num_states

    @property
    def num_images(self) -> int:
        """Return B."""
        return self.latents.shape[2]

    @property
    def has_prior_rung(self) -> bool:
        """Return whether each image holds draws of its own at t = 0."""
        return bool((self.inverse_temperatures[0] == 0).all())

    def chains(self, index: slice | Tensor) -> "Ladder":
        """Return the ladder with some of its chains, all states of each; shared prior draws stay whole."""

        def pick(values: Tensor) -> Tensor:
            return values.unflatten(1, (self.num_states, -1))[:, :, index].flatten(1, 2)

        return replace(
            self,
            latents=pick(self.latents),
            log_likelihood=pick(self.log_likelihood),
            energy=pick(self.energy),
            score=None if self.score is None else pick(self.score),
        )

    def last_states(self) -> "Ladder":
        """Return the ladder with the last state of each chain alone."""
        if self.num_states == 1:
            return self
        last = slice(-self.num_chains, None)
        return replace(
            self,
            latents=self.latents[:, last],
            log_likelihood=self.log_likelihood[:, last],
            energy=self.energy[:, last],
            score=None if self.score is None else self.score[:, last],
            num_states=1,
        )

    def to_arviz(self) -> Any:
        """Return the draws for ArviZ: `posterior` and `sample_stats`, with a coordinate `rung` of temperatures.

        Raises:
            InputError: ArviZ is not installed.
        """

        def states(values: Tensor) -> Tensor:  # (K, S M, B, ...) to (S, K, M, B, ...)
            return values.unflatten(1, (self.num_states, -1)).transpose(0, 1)

        return of_chains(
            self.inverse_temperatures,
            states(self.log_likelihood),
            states(self.energy),
            states(self.latents),
        )

    def prior_half(self, which: int) -> "Ladder":
        """Return the ladder with the first (0) or second (1) half of the shared prior draws."""
        if self.prior_latents is None:
            return self
        half = len(self.prior_latents) // 2
        part = slice(which * half, (which + 1) * half)
        score = None if self.prior_score is None else self.prior_score[part]
        return replace(self, prior_latents=self.prior_latents[part], prior_score=score)
