"""Mistakes put into the chains, estimators and methods of evidence, one at a time: the named test sees each."""

from typing import Any

import pytest
import test_chains
import test_convergence
import test_evidence
import test_multistate
import test_prior
import test_prior_chains
import test_smc
import torch

from thermograd.evidence import particles, replicates
from thermograd.gradients import multistate
from thermograd.ladders import smc
from thermograd.samplers import prior as prior_module
from thermograd.training import chains, convergence
from thermograd.training.prior_chains import PriorChains


def coldest(*arguments: Any) -> torch.Tensor:
    """One image rules the temperatures of all."""
    t = smc_right(*arguments)
    return t.amin().expand_as(t)


def solved_within_8_rounds() -> None:
    with pytest.MonkeyPatch.context() as patch:
        test_multistate.test_the_equations_are_solved_whatever_the_draws(11, 2, 30.0, True, patch)


smc_right, settled_right = smc.next_temperature, convergence._is_settled


def forgets(self: Any, draws: Any) -> None:
    """Chains that go nowhere."""


def never_swaps(state: Any, t: torch.Tensor, parity: int, generator: Any) -> tuple[Any, None, torch.Tensor]:
    return state, None, t.new_zeros(len(t) - 1, 1, 1)


PLAIN = {
    "one image sets the temperatures of all": (
        (smc, "next_temperature", coldest),
        test_smc.test_one_image_scaled_by_40_changes_nothing_for_its_neighbours,
    ),
    "one image sets the temperatures of all, in the evidence": (
        (smc, "next_temperature", coldest),
        lambda: test_evidence.test_one_image_scaled_by_40_leaves_its_neighbours_alone("smc"),
    ),
    "four repeats with the quantile of a normal law": (
        (replicates, "quantile", lambda count: 1.96),
        test_evidence.test_intervals_of_normal_repeats_hold_the_truth,
    ),
    "an interval whatever the repeats' spread": (
        (replicates, "SPREAD_LIMIT", float("inf")),
        test_evidence.test_no_interval_where_repeats_disagree,
    ),
    "particles that lag behind are not looked at": (
        (particles, "SETTLED_NATS", float("inf")),
        test_evidence.test_images_whose_particles_still_rise_have_no_interval,
    ),
    "the plain fixed point in place of Newton's method": (
        (multistate._Point, "newton_step", lambda self: self.log_mass),
        lambda: solved_within_8_rounds(),
    ),
    "a verdict that leaves the contrast out": (
        (convergence, "_is_settled", lambda marks, contrast, error: settled_right(marks, None, None)),
        test_convergence.test_a_contrast_alone_refuses_the_verdict,
    ),
    "no pilot before the marks": (
        (convergence, "NUM_PILOT_STEPS", 0),
        test_convergence.test_step_sizes_are_found_before_the_marks,
    ),
    "a ladder of the prior that never swaps": (
        (prior_module, "exchange", never_swaps),
        test_prior.test_a_ladder_crosses_between_modes_with_the_right_weights,
    ),
}


@pytest.mark.parametrize("mistake", PLAIN)
def test_it_is_seen(mistake: str, monkeypatch: pytest.MonkeyPatch):
    (where, name, wrong), test = PLAIN[mistake]
    monkeypatch.setattr(where, name, wrong)
    with pytest.raises(AssertionError):
        test()


OF_CHAINS = {
    "one step size for all images": (
        (chains, "LARGEST_LOG_FACTOR", 0.0),
        test_chains.test_an_odd_image_gets_step_sizes_of_its_own,
    ),
    "visits without a move are not counted": (
        (chains, "LONGEST_STAND", 0),
        lambda make: test_chains.test_a_chain_that_stands_still_begins_anew(False, make),
    ),
    "a chain begins anew at any draw of the prior": (
        (chains, "NUM_CANDIDATES", 1),
        test_chains.test_a_chain_begins_anew_where_the_likelihood_is_high,
    ),
    "the prior's chains of a further update are forgotten": (
        (PriorChains, "keep", forgets),
        lambda make: test_prior_chains.test_a_further_update_of_the_energy_is_one_step_up_the_contrast(
            "none", make
        ),
    ),
}


@pytest.mark.parametrize("mistake", OF_CHAINS)
def test_it_is_seen_in_a_run(mistake: str, tiny_config: Any, monkeypatch: pytest.MonkeyPatch):
    (where, name, wrong), test = OF_CHAINS[mistake]
    monkeypatch.setattr(where, name, wrong)
    with pytest.raises(AssertionError):
        test(tiny_config)
