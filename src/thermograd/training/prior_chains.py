"""The prior's chains of a run: where they stand and their step size, apart from the chains of images."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from thermograd.config.schema import LearningConfig, RunConfig
from thermograd.models.latent_model import LatentModel
from thermograd.samplers.kernel import adapted_step_size
from thermograd.samplers.named import make_kernel
from thermograd.samplers.prior import PriorDraws, PriorSource, sample_prior


class PriorChains:
    """Chains on the prior, shared by all images; a draw keeps nothing, `keep` stores where it ended.

    Args:
        config: the run.
        model: the model that is sampled; its device and number format are taken.
        persists: whether there are chains to store; those of `prior_chains.start` base begin anew at each visit.
        stream: from a name and a step to a random stream.

    Attributes:
        step_size: h, () or with a ladder (K,).
        stored: (M0, d) or (K, M0, d), or None.
    """

    def __init__(
        self,
        config: LearningConfig,
        model: LatentModel,
        persists: bool,
        stream: Callable[[str, int], torch.Generator],
    ):
        self.config, self.settings, self.stream = config, config.prior_chains, stream
        rungs = (self.settings.num_rungs,) if self.settings.num_rungs > 1 else ()
        self.step_size = torch.full(rungs, self.settings.step_size, device=next(model.parameters()).device)
        self.stored: Tensor | None = None
        if persists:
            self.stored = model.sample_base((*rungs, self.num_chains), stream("stored-prior", 0))

    @property
    def num_chains(self) -> int:
        """Return M0."""
        return self.settings.num_chains or self.config.gradient.num_chains * self.config.training.batch_size

    @property
    def source(self) -> PriorSource:
        """Where samples of the prior come from."""
        return PriorSource(self.settings, self.step_size, self.stored)

    def draw(self, model: LatentModel, step: int, name: str = "", update: int = 0) -> PriorDraws:
        """Sample the prior from where its chains stand.

        Args:
            model: what the chains evaluate.
            step: counter of the random streams.
            name: prefix of the random streams.
            update: which update of the energy this is, of one step of the generator.
        """
        generator = self.stream(f"{name}prior-chains" + (f"-{update}" if update else ""), step)
        start = self.stored
        if start is None:
            start = model.sample_base((self.num_chains,), generator)
        kernel = make_kernel(self.settings.kernel, self.step_size)
        return sample_prior(model, kernel, self.settings.num_steps, start, generator)

    def keep(self, draws: PriorDraws) -> None:
        """Store where chains ended, and let their step size follow the acceptance."""
        if self.stored is not None:
            self.stored = draws.chains
        self.step_size = adapted_step_size(
            self.step_size,
            draws.acceptance.to(self.step_size),
            make_kernel(self.settings.kernel, 1.0).target_acceptance,
            self.config.posterior_chains.adaptation_gain,
        )

    def borrow(self, other: "PriorChains", model: LatentModel, generator: torch.Generator) -> None:
        """Take the step size and chains of another run's config; copies of them where the number differs."""
        self.step_size = other.step_size
        if self.stored is None or other.stored is None:
            self.stored = None
        elif self.num_chains == other.num_chains:
            self.stored = other.stored
        else:
            self.stored = other.source.start(model, self.num_chains, generator)

    def tensors(self) -> dict[str, Tensor]:
        """Return all that a resumed run needs."""
        stored = {} if self.stored is None else {"stored_prior": self.stored}
        return {"prior_step_size": self.step_size} | stored

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `tensors` returned."""
        self.step_size = tensors["prior_step_size"].to(self.step_size.device)
        if self.stored is not None:
            self.stored = tensors["stored_prior"].to(self.stored.device)


def prior_source(config: RunConfig, tensors: Mapping[str, Tensor]) -> PriorSource:
    """Return where samples of a run's prior come from, by the tensors of its training state."""
    return PriorSource(config.prior_chains, tensors["prior_step_size"], tensors.get("stored_prior"))
