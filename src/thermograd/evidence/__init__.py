"""The evidence log p(x) of each image, with error bars that keep chance and quadrature apart."""

from thermograd.config.measure import EvidenceSettings
from thermograd.evidence.annealing import (
    Annealed,
    annealed_importance_sampling,
    log_partition,
    reverse_annealing,
)
from thermograd.evidence.estimate import METHODS, estimate_evidence
from thermograd.evidence.factor import BayesFactor, bayes_factor
from thermograd.evidence.result import Estimate, Evidence
from thermograd.evidence.stepping_stone import stepping_stone
from thermograd.evidence.thermodynamic import Rule, thermodynamic_integration

__all__ = [
    "METHODS",
    "Annealed",
    "BayesFactor",
    "Estimate",
    "Evidence",
    "EvidenceSettings",
    "Rule",
    "annealed_importance_sampling",
    "bayes_factor",
    "estimate_evidence",
    "log_partition",
    "reverse_annealing",
    "stepping_stone",
    "thermodynamic_integration",
]
