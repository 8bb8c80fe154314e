"""The algorithms that a config can name, each with its facts: what the command line, checks, probes and studies read.

Nothing here computes, so it is free of torch: an algorithm's own module takes its facts from here. What a plugin
registers is added to the same tables.
"""

from importlib import resources

from thermograd.config.facts import (
    LIKELIHOOD,
    EstimatorFacts,
    EvidenceFacts,
    ExtractorFacts,
    KernelFacts,
    PriorRuleFacts,
    ScheduleFacts,
    StartFacts,
)
from thermograd.config.tables import Facts, Table

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
            pairs=True,
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
