"""The contract of an algorithm, checked by one call; the tests of this package use the same functions.

    tg.testing.check_estimator(mine)        # an Estimator
    tg.testing.check_prior_rule(mine)       # a PriorRule
    tg.testing.check_kernel(RandomWalk(0.3)) # a Kernel
    tg.testing.check_schedule(mine)         # a Schedule
    tg.testing.check_model(model)           # a LatentModel; what is wrong with it is an InputError

Each returns None, or raises an AssertionError that says in one sentence what does not hold. Means are compared with
exact values of two models that have them, a linear Gaussian one and a network on a grid, within 4 standard errors.
"""

from thermograd.models.check import check_model
from thermograd.testing.kernels import check_kernel
from thermograd.testing.rules import check_estimator, check_prior_rule
from thermograd.testing.schedules import check_schedule

__all__ = ["check_estimator", "check_kernel", "check_model", "check_prior_rule", "check_schedule"]
