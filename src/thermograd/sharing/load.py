"""A shared model, with all that its samples need."""

from dataclasses import dataclass
from pathlib import Path

from thermograd.config.schema import RunConfig
from thermograd.models.latent_ebm import LatentEBM
from thermograd.models.pretrained import read_shared
from thermograd.samplers.prior import PriorSource
from thermograd.training.prior_chains import prior_source
from thermograd.training.samples import Samples, sample_images


@dataclass(frozen=True)
class Pretrained:
    """A model that was shared.

    Attributes:
        folder: where its files lie.
        config: of the run that it comes from.
        model: with the shared weights.
        prior_chains: where samples of the prior come from.

    Example:
        >>> run = tg.train("digits", "runs/example", measured=False, training={"num_epochs": 1})
        >>> shared = tg.load_pretrained(run.save_pretrained("shared"))
        >>> bool((shared.sample(4).images == run.sample(4).images).all())
        True
    """

    folder: Path
    config: RunConfig
    model: LatentEBM
    prior_chains: PriorSource

    def sample(self, num_images: int = 64, seed: int = 0) -> Samples:
        """Draw images from the model by the run's prior chains; the same seed gives the images of the run itself."""
        return sample_images(self.model, self.prior_chains, num_images, seed)

    def __repr__(self) -> str:
        """Return the folder and the preset."""
        return f"Pretrained({str(self.folder)!r}, {self.config.preset})"


def load_pretrained(
    source: Path | str, *, revision: str | None = None, trust_plugins: bool = False
) -> Pretrained:
    """Load a shared model, from a folder or from the hub.

    Args:
        source: a folder, or OWNER/NAME on the Hugging Face hub (extra `hub`).
        revision: on the hub, a branch, tag or commit.
        trust_plugins: run the code of networks that are not of this package.

    Raises:
        InputError: no such folder or name, files that are missing, changed or of another model, or code that is not
            trusted.
        RunError: the hub cannot be reached.

    Example:
        >>> run = tg.train("digits", "runs/example", measured=False, training={"num_epochs": 1})
        >>> tg.load_pretrained(run.save_pretrained("shared"))
        Pretrained('shared', digits)
    """
    shared = read_shared(source, revision=revision, trust_plugins=trust_plugins)
    source_of_samples = prior_source(shared.config, shared.prior)
    return Pretrained(shared.folder, shared.config, LatentEBM.of_shared(shared), source_of_samples)
