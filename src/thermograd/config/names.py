"""The algorithms that a config can name, each with its facts: what the command line, checks, probes and studies read.

Nothing here computes, so it is free of torch: an algorithm's own module takes its facts from here. What a plugin
registers is added to the same tables.
"""

from dataclasses import KW_ONLY, dataclass
from importlib import resources
from typing import Literal

from thermograd.config.tables import Facts, Table


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
    """

    _: KW_ONLY
    takes_covariance: bool = False


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

ESTIMATORS = Table(
    "estimator",
    (
        EstimatorFacts(
            "maximum-likelihood",
            summary="the gradient of log p(x), from draws of the posterior",
            needs_prior_rung=False,
            default_rungs=2,
            max_rungs=2,
            objective=LIKELIHOOD,
        ),
        EstimatorFacts(
            "maximum-likelihood-stein",
            summary="the same from all states of a visit, corrected by their scores, whose mean must be 0",
            min_chains=2,
            needs_prior_rung=False,
            default_rungs=2,
            max_rungs=2,
            unbiased=False,
            uses_scores=True,
            states="all",
            objective=LIKELIHOOD,
        ),
        EstimatorFacts(
            "tempered",
            summary="maximum likelihood from the top of a ladder whose rungs exchange states",
            needs_prior_rung=False,
            default_rungs=4,
            needs_exchange=True,
            objective=LIKELIHOOD,
        ),
        EstimatorFacts(
            "multistate",
            summary="maximum likelihood from the draws of all rungs, weighed by what each tells of the posterior",
            needs_prior_rung=False,
            default_rungs=4,
            unbiased=False,
            prior_rule="contrast-multistate",
            objective=LIKELIHOOD,
        ),
        EstimatorFacts(
            "thermodynamic-detached",
            summary="thermodynamic integration with its draws held fixed, which is not the gradient of log p(x)",
            objective="the thermodynamic integral with its draws held fixed",
        ),
        EstimatorFacts(
            "thermodynamic-complete",
            summary="the gradient of thermodynamic integration, by covariances on each rung",
            min_chains=2,
            history=True,
            objective=LIKELIHOOD,
        ),
        EstimatorFacts(
            "stepping-stone-detached",
            summary="stepping stones with their draws held fixed",
            unbiased=False,
            history=True,
            objective="stepping stones with their draws held fixed",
        ),
        EstimatorFacts(
            "stepping-stone-complete",
            summary="the gradient of stepping stones",
            min_chains=2,
            unbiased=False,
            history=True,
            objective=LIKELIHOOD,
        ),
    ),
    {
        word: "thermodynamic-detached is the proposal's own objective, whose draws are held fixed; "
        "thermodynamic-complete is the gradient of log p(x) by thermodynamic integration."
        for word in ("thermodynamic", "thermodynamic-integration", "ti", "TI")
    }
    | {word: "maximum-likelihood is the gradient of log p(x)." for word in ("ml", "ML", "mle", "vanilla")},
)

PRIOR_RULES = Table(
    "prior rule",
    (
        PriorRuleFacts(
            "contrast",
            summary="energies at draws of the prior less those at draws of the posterior: the gradient of log p(x)",
            needs_prior_rung=False,
            default_rungs=2,
            allows_updates=True,
        ),
        PriorRuleFacts(
            "contrast-stein",
            summary="the same from all states of a visit, corrected by their scores",
            needs_prior_rung=False,
            default_rungs=2,
            unbiased=False,
            uses_scores=True,
            states="all",
        ),
        PriorRuleFacts(
            "contrast-multistate",
            summary="the same from the draws of all rungs",
            needs_prior_rung=False,
            default_rungs=2,
            unbiased=False,
        ),
        PriorRuleFacts(
            "covariance", summary="the same in the continuum, by covariances along the ladder", min_chains=2
        ),
        PriorRuleFacts(
            "detached-objective", summary="the gradient of what thermodynamic-detached ascends", min_chains=2
        ),
    ),
)

KERNELS = Table(
    "kernel",
    (
        KernelFacts("ula", summary="Langevin without a test of acceptance, biased by its step size"),
        KernelFacts(
            "mala",
            summary="Langevin with a test of acceptance, whose step size adapts",
            takes_covariance=True,
        ),
    ),
)

SCHEDULES = Table(
    "schedule",
    (
        ScheduleFacts("power", summary="(k/N)^p"),
        ScheduleFacts("linear", summary="k/N"),
        ScheduleFacts("geometric", summary="equal ratios from `smallest` on", min_rungs=3),
        ScheduleFacts("sigmoid", summary="crowds both ends, by `steepness`"),
        ScheduleFacts(
            "equal-length", summary="equal thermodynamic length, adapted", follows="variances", min_rungs=3
        ),
        ScheduleFacts(
            "equal-swap", summary="neighbours swap equally often, adapted", follows="swap-rates", min_rungs=3
        ),
    ),
)

SMALLEST_CLOUD = 16
"""Particles of sequential Monte Carlo: fewer leave an effective size that says nothing."""

BASE = StartFacts("base", summary="draws of the base distribution")
PERSISTENT = StartFacts("persistent", summary="where the chains ended at their last visit", persists=True)
PRIOR_STARTS = Table("start", (BASE, PERSISTENT))
POSTERIOR_STARTS = Table(
    "start",
    (
        BASE,
        StartFacts("prior", summary="draws of the prior chains", reads_prior=True),
        StartFacts("annealed", summary="each rung from where the one below it ended", climbs=True),
        StartFacts(
            "smc",
            summary="sequential Monte Carlo from draws of the prior chains",
            reads_prior=True,
            carries=True,
        ),
        PERSISTENT,
    ),
)

GENERATORS = Table(
    "generator",
    (
        Facts("conv", summary="transposed convolutions, for 8, 16, 28, 32 or 64 pixels"),
        Facts("dense", summary="a multi-layer perceptron, for any size"),
    ),
)

ENERGIES = Table("energy network", (Facts("dense", summary="a multi-layer perceptron"),))

EXTRACTORS = Table(
    "extractor",
    (
        ExtractorFacts(
            "auto",
            summary="classifier where there are labels, else efficientnet",
            stands_for=("classifier", "efficientnet"),
        ),
        ExtractorFacts(
            "classifier",
            summary="a network trained on the data's own labels",
            needs_labels=True,
            network="classifier-{data}",
            num_features=64,
            distances=("fd-classifier-{data}", "kd-classifier-{data}"),
            full_distances=("fd-infinity-classifier-{data}",),
        ),
        ExtractorFacts(
            "efficientnet",
            summary="EfficientNet-Lite0",
            needs_weights=True,
            network="efficientnet-lite0",
            num_features=1280,
            distances=("fd-efficientnet-lite0", "kd-efficientnet-lite0"),
            full_distances=("fd-infinity-efficientnet-lite0",),
        ),
        ExtractorFacts(
            "inception",
            summary="the Inception of the published FID",
            needs_weights=True,
            network="inception-v3-2015-12-05",
            num_features=2048,
            distances=("FID", "KID"),
            full_distances=("FID-infinity",),
        ),
        ExtractorFacts("none", summary="no distances"),
    ),
)


def choose_extractor(name: str, has_labels: bool) -> ExtractorFacts:
    """Return the feature network that a name stands for, by whether all images have labels."""
    facts = EXTRACTORS[name]
    return facts if facts.stands_for is None else EXTRACTORS[facts.stands_for[not has_labels]]


EVIDENCE_METHODS = Table(
    "method",
    (
        EvidenceFacts(
            "laplace",
            summary="sequential Monte Carlo from Gaussians at the posterior's modes, and back",
            particles="modes",
        ),
        EvidenceFacts("smc", summary="sequential Monte Carlo from a bank of prior draws", particles="bank"),
        EvidenceFacts(
            "thermodynamic", summary="thermodynamic integration with control variates", controls=True
        ),
        EvidenceFacts("thermodynamic-plain", summary="thermodynamic integration without them"),
        EvidenceFacts("stepping-stone", summary="ratios of neighbouring rungs", by_ratios=True),
        EvidenceFacts(
            "annealed-importance-sampling", summary="annealing from draws of the prior", anneals=True
        ),
    ),
)


def preset_names() -> list[str]:
    """Return the names of the presets that come with the package."""
    folder = resources.files("thermograd.config") / "presets"
    return sorted(
        entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml")
    )
