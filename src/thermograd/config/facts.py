"""What is known of each kind of algorithm, beside its name: fields that checks, probes, studies and help read."""

from dataclasses import KW_ONLY, dataclass
from typing import Literal

from thermograd.config.tables import Facts


@dataclass(frozen=True)
class EstimatorFacts(Facts):
    """Of an estimator of the generator's gradient.

    Attributes:
        min_chains: the fewest chains M with which it is defined.
        needs_prior_rung: whether each image needs draws of its own at t = 0; if not, all images share them.
        default_rungs: K where none is asked for.
        max_rungs: the most rungs that it can use, or None for any number.
        unbiased: whether its mean equals its limit at any M.
        uses_scores: whether its weights read the scores of the draws.
        states: which states of a visit it reads, the last of each chain or all.
        needs_exchange: whether it is worth its cost only where neighbouring rungs swap states.
        prior_rule: the prior rule that goes with it, where none is asked for.
        objective: what it ascends, in words; "" for one that nobody has named.
    """

    _: KW_ONLY
    min_chains: int = 1
    needs_prior_rung: bool = True
    default_rungs: int = 11
    max_rungs: int | None = None
    unbiased: bool = True
    uses_scores: bool = False
    states: Literal["last", "all"] = "last"
    needs_exchange: bool = False
    prior_rule: str = "contrast"
    objective: str = ""


@dataclass(frozen=True)
class PriorRuleFacts(Facts):
    """Of an estimator of the prior's gradient; as in `EstimatorFacts`, and

    Attributes:
        allows_updates: whether the energy can take further steps from the same posterior draws and new draws of the
            prior.
    """

    _: KW_ONLY
    min_chains: int = 1
    needs_prior_rung: bool = True
    default_rungs: int = 11
    unbiased: bool = True
    uses_scores: bool = False
    states: Literal["last", "all"] = "last"
    allows_updates: bool = False


@dataclass(frozen=True)
class KernelFacts(Facts):
    """Of a kernel.

    Attributes:
        takes_covariance: whether its proposals can have a covariance, which chains then learn.
        pairs: whether chains can take opposite noise in pairs, its field `antithetic`.
    """

    _: KW_ONLY
    takes_covariance: bool = False
    pairs: bool = False


@dataclass(frozen=True)
class StartFacts(Facts):
    """Of where chains begin.

    Attributes:
        persists: at the places where they ended at their last visit.
        reads_prior: at draws of the prior's chains.
        climbs: each rung at the place where the one below it ended.
        carries: at t = 1 alone, where particles end that come from the prior.
    """

    _: KW_ONLY
    persists: bool = False
    reads_prior: bool = False
    climbs: bool = False
    carries: bool = False


@dataclass(frozen=True)
class EvidenceFacts(Facts):
    """Of a method for the evidence.

    Attributes:
        particles: where the particles of sequential Monte Carlo come from; None for a method on ladders of chains.
        anneals: whether a ladder's rungs are visited one after another, each by chains that come from the one below.
        controls: whether control variates make its errors smaller.
        by_ratios: whether it multiplies ratios of neighbouring rungs, so that its estimates are means of weights.
    """

    _: KW_ONLY
    particles: Literal["modes", "bank"] | None = None
    anneals: bool = False
    controls: bool = False
    by_ratios: bool = False


@dataclass(frozen=True)
class ScheduleFacts(Facts):
    """Of a schedule of inverse temperatures.

    Attributes:
        follows: what it adapts to while training: the variance of the log-likelihood on each rung, the rates at which
            neighbouring rungs swap, or None for a schedule that stays as it is.
        min_rungs: the fewest rungs K.
    """

    _: KW_ONLY
    follows: Literal["variances", "swap-rates"] | None = None
    min_rungs: int = 2

    @property
    def min_chains(self) -> int:
        """Return the fewest chains: one has no variance within an image."""
        return 2 if self.follows == "variances" else 1

    @property
    def needs_exchange(self) -> bool:
        """Return whether neighbouring rungs must swap states."""
        return self.follows == "swap-rates"


@dataclass(frozen=True)
class ExtractorFacts(Facts):
    """Of a feature network for distances between sets of images.

    Attributes:
        stands_for: the networks that are taken where all images have labels and where not; None for a network itself.
        needs_labels: whether it is trained on the data's own labels.
        needs_weights: whether it needs a file of weights.
        network: its name in records, with {data} for the name of the data.
        num_features: F, the length of its feature vectors, which decides how many images a distance needs.
        distances: what is measured in its features, with {data} for the name of the data.
        full_distances: what is measured in addition with the full variant.
    """

    _: KW_ONLY
    stands_for: tuple[str, str] | None = None
    needs_labels: bool = False
    needs_weights: bool = False
    network: str = ""
    num_features: int = 0
    distances: tuple[str, ...] = ()
    full_distances: tuple[str, ...] = ()

    @property
    def measures(self) -> bool:
        """Return whether there are any distances."""
        return self.stands_for is not None or bool(self.distances)


LIKELIHOOD = "log p(x)"
