"""The chains of a run: step sizes of their own for images, and chains that stand still."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from thermograd.config.schema import RunConfig
from thermograd.errors import InputError
from thermograd.gradients.rules import ESTIMATORS
from thermograd.ladders.ladder import Ladder
from thermograd.streams import stream
from thermograd.training.builder import build_model
from thermograd.training.chains import Chains
from thermograd.training.trainer import Trainer

MakeConfig = Callable[..., RunConfig]
PERSISTENT: dict[str, Any] = {
    "posterior_chains.kernel": "mala",
    "posterior_chains.start": "persistent",
    "posterior_chains.num_steps": 4,
}
INDEX = torch.arange(8)


def images(config: RunConfig) -> Tensor:
    return 2 * torch.rand((8, *config.model.image_shape), generator=stream(1, "pool")) - 1


def visit(chains: Chains, model: Any, x: Tensor, step: int) -> dict[str, float]:
    return chains.keep(model, x, chains.draw(model, x, INDEX, step), INDEX, step)


def test_an_odd_image_gets_step_sizes_of_its_own(tiny_config: MakeConfig):
    """A visit's mean acceptance rules the common step size; what an image differs by rules its factor."""
    config = tiny_config(PERSISTENT)
    model = build_model(config)
    x = images(config)
    x[3] *= 40
    with torch.no_grad():
        for parameter in model.generator.parameters():
            parameter.mul_(3)
    chains = Chains(config, model, 8)
    for step in range(150):
        visit(chains, model, x, step)
    assert (chains.log_factors[3, 0] - chains.log_factors[:, 0].median()).abs() > 0.5
    acceptance = torch.stack(
        [chains.draw(model, x, INDEX, 200 + s).info.acceptance[-1] for s in range(40)]
    ).mean(0)
    assert (acceptance - 0.574).abs().max() < 0.2

    alone = Chains(tiny_config({**PERSISTENT, "posterior_chains.image_gain": 0}), model, 8)
    for step in range(150):
        visit(alone, model, x, step)
    assert (alone.log_factors == 0).all()
    spread = torch.stack([alone.draw(model, x, INDEX, 200 + s).info.acceptance[-1] for s in range(40)]).mean(
        0
    )
    assert (spread[3] - 0.574).abs() > 0.3  # with one step size for all, the odd image stands apart


@pytest.mark.parametrize("exchange", [False, True])
def test_a_chain_that_stands_still_begins_anew(exchange: bool, tiny_config: MakeConfig):
    ladder = {"gradient.estimator": "thermodynamic-detached", "gradient.num_rungs": 3}
    words = {**PERSISTENT, "posterior_chains.restart_after": 3, "posterior_chains.exchange": exchange}
    config = tiny_config({**words, **(ladder if exchange else {})})
    model, x = build_model(config), images(config)
    chains = Chains(config, model, 8)
    assert chains.stored is not None
    chains.step_sizes.fill_(0.1)
    chains.log_factors[2] = 30.0  # so long a step is never accepted
    seen = []
    for step in range(3):
        chains.log_factors[2] = 30.0
        before = chains.stored.clone()
        seen.append(visit(chains, model, x, step))
        rungs = slice(1, None) if exchange else slice(None)  # exchange moves states between rungs
        moved = (chains.stored != before).any(-1)[:, rungs]
        assert moved[[0, 1, 3]].all()
        if not exchange:
            assert moved[2].all() == (step == 2)
    if not exchange:
        assert [record["restarted_chains"] for record in seen] == [0, 0, 1]
        assert [record["restart_evaluations"] for record in seen] == [0, 0, 64]
        assert seen[1]["standing_chains"] == pytest.approx(1 / 8)  # 8 steps without a move
        assert seen[0]["standing_chains"] == 0
        assert chains.num_still[2].sum() == 0


def test_a_chain_begins_anew_where_the_likelihood_is_high(tiny_config: MakeConfig):
    """The new place is a draw of the prior with probability proportional to p(x|z): by far the best one here."""
    config = tiny_config({**PERSISTENT, "posterior_chains.restart_after": 1, "prior_chains.num_chains": 512})
    model, x = build_model(config), images(config)
    with torch.no_grad():
        for parameter in model.generator.parameters():
            parameter.mul_(4)
    chains = Chains(config, model, 8)
    chains.log_factors.fill_(30.0)
    draws = chains.draw(model, x, INDEX, 0)
    chains.keep(model, x, draws, INDEX, 0)
    assert draws.prior is not None
    assert chains.stored is not None
    with torch.no_grad():
        anew = model.log_likelihood(x, chains.stored[:, 0, 0])
        whole = model.log_likelihood(x, draws.prior.latents.unsqueeze(1).expand(-1, 8, -1))
    assert (anew > whole.quantile(0.9, dim=0)).all()


def test_restarts_and_factors_come_back_with_a_checkpoint(tiny_config: MakeConfig):
    config = tiny_config({**PERSISTENT, "posterior_chains.restart_after": 2})
    x = images(config)
    trainer, other = (Trainer(config, build_model(config), 8) for _ in range(2))
    for step in range(4):
        trainer.step(x, INDEX, step, 0)
    other.model.load_state_dict(trainer.model.state_dict())
    other.load_tensors({name: tensor.clone() for name, tensor in trainer.tensors().items()}, None)
    assert (trainer.chains.log_factors != 0).any()
    one, two = (each.step(x, INDEX, 4, 0) for each in (trainer, other))
    assert one == two
    assert torch.equal(trainer.chains.log_factors, other.chains.log_factors)


def test_standing_chains_are_told_in_the_record_and_as_a_caution(tiny_config: MakeConfig):
    config = tiny_config({**PERSISTENT, "posterior_chains.restart_after": None})
    trainer, x = Trainer(config, build_model(config), 8), images(config)
    kinds = []
    for step in range(2):  # of 4 steps each; 8 are more than chance leaves standing
        trainer.chains.log_factors[2] = 30.0
        record = trainer.step(x, INDEX, step, 0)
        kinds.append({caution["kind"] for caution in record["warnings"]})
    assert record["standing_chains"] == pytest.approx(1 / 8)
    assert "standing-chains" not in kinds[0]
    assert "standing-chains" in kinds[1]


def test_records_tell_of_standing_chains(tiny_config: MakeConfig):
    config = tiny_config(PERSISTENT)
    record = Trainer(config, build_model(config), 8).step(images(config), INDEX, 0, 0)
    assert {"standing_chains", "restarted_chains"} <= set(record)
    config = tiny_config({"posterior_chains.start": "base"})
    assert "standing_chains" not in Trainer(config, build_model(config), 8).step(images(config), INDEX, 0, 0)


SECANT = {**PERSISTENT, "posterior_chains.precondition": "secant"}


def test_images_learn_covariances_of_their_own_from_visit_to_visit(tiny_config: MakeConfig):
    """At fixed weights they approach the posterior's."""
    config = tiny_config(SECANT)
    model, x = build_model(config), images(config)
    with torch.no_grad():
        for parameter in model.generator.parameters():
            parameter.mul_(3)
    chains = Chains(config, model, 8)
    for step in range(60):
        visit(chains, model, x, step)
    assert chains.covariances is not None
    assert chains.covariances.shape == (8, 1, config.model.latent_dim, config.model.latent_dim)
    assert (torch.linalg.eigvalsh(chains.covariances) > 0).all()
    one, two = chains.covariances[:2, 0]
    assert (one - two).norm() > 0.2 * one.norm()
    # Where each chain stands, the precision by Gauss and Newton: its condition number falls by the covariance.
    assert chains.stored is not None
    jacobian = torch.func.vmap(torch.func.jacrev(lambda z: model.generator(z.unsqueeze(0)).flatten()))
    slopes = jacobian(chains.stored[:, 0, 0]).detach() / model.noise_std
    precision = torch.eye(config.model.latent_dim) + slopes.mT @ slopes
    plain = torch.linalg.eigvalsh(precision)
    learnt = torch.linalg.eigvals(chains.covariances[:, 0] @ precision).real
    before, after = ((each.amax(-1) / each.amin(-1)).median() for each in (plain, learnt))
    assert after < 0.5 * before, (before, after)


def test_a_chain_that_begins_anew_learns_anew(tiny_config: MakeConfig):
    config = tiny_config({**SECANT, "posterior_chains.restart_after": 2})
    model, x = build_model(config), images(config)
    chains = Chains(config, model, 8)
    visit(chains, model, x, 0)
    assert chains.covariances is not None
    for step in (1, 2):
        chains.log_factors[2] = 30.0  # so long a step is never accepted
        visit(chains, model, x, step)
    identity = torch.eye(config.model.latent_dim)
    assert torch.equal(chains.covariances[2, 0], identity)
    assert (chains.log_factors[2] == 0).all()
    assert not torch.equal(chains.covariances[1, 0], identity)


def test_covariances_come_back_with_a_checkpoint(tiny_config: MakeConfig):
    config = tiny_config(SECANT)
    x = images(config)
    trainer, other = (Trainer(config, build_model(config), 8) for _ in range(2))
    for step in range(4):
        trainer.step(x, INDEX, step, 0)
    other.model.load_state_dict(trainer.model.state_dict())
    other.load_tensors({name: tensor.clone() for name, tensor in trainer.tensors().items()}, None)
    one, two = (each.step(x, INDEX, 4, 0) for each in (trainer, other))
    assert one == two
    assert other.chains.covariances is not None
    assert torch.equal(trainer.chains.covariances, other.chains.covariances)


def test_a_ladder_learns_a_covariance_per_rung(tiny_config: MakeConfig):
    ladder = {
        "gradient.estimator": "thermodynamic-detached",
        "gradient.num_rungs": 3,
        "gradient.num_chains": 2,
    }
    config = tiny_config({**SECANT, **ladder, "posterior_chains.exchange": True})
    model, x = build_model(config), images(config)
    chains = Chains(config, model, 8)
    for step in range(20):
        visit(chains, model, x, step)
    assert chains.covariances is not None
    trace = chains.covariances.diagonal(dim1=-2, dim2=-1).sum(-1).mean(0)
    assert trace.shape == (3,)
    assert trace[0] > trace[2]  # the posterior is narrower than the prior


@pytest.mark.parametrize("words", [{"posterior_chains.kernel": "ula"}, {"posterior_chains.start": "base"}])
def test_a_covariance_needs_mala_and_stored_chains(words: dict[str, Any], tiny_config: MakeConfig):
    with pytest.raises(InputError, match=r"`posterior_chains.precondition` secant needs kernel mala"):
        tiny_config({**SECANT, **words})


def test_covariances_count_in_the_bound_on_memory(tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch):
    config = tiny_config(SECANT)
    d = config.model.latent_dim
    model = build_model(config)
    monkeypatch.setattr("thermograd.training.chains.LARGEST_STORE", 4 * 8 * (d + d * d))
    Chains(config, model, 8)
    monkeypatch.setattr("thermograd.training.chains.LARGEST_STORE", 4 * 8 * (d + d * d) - 1)
    with pytest.raises(InputError, match="of covariances"):
        Chains(config, model, 8)
    Chains(tiny_config(PERSISTENT), model, 8)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"posterior_chains.kernel": "ula"}, "needs kernel mala, got ula"),
        ({"gradient.num_chains": 3}, "needs an even number of chains and no noise_multiplier, got 3 and 0"),
        (
            {"gradient.noise_multiplier": 2.0},
            "needs an even number of chains and no noise_multiplier, got 2 and 2",
        ),
    ],
)
def test_opposite_noise_needs_mala_pairs_and_no_added_noise(
    words: dict[str, Any], message: str, tiny_config: MakeConfig
):
    pairs = {**PERSISTENT, "posterior_chains.antithetic": True, "gradient.num_chains": 2}
    with pytest.raises(InputError, match=message):
        tiny_config({**pairs, **words})
    config = tiny_config(pairs)
    sampler = Chains(config, build_model(config), 8).sampler(INDEX)
    assert getattr(sampler.kernel, "antithetic")  # noqa: B009


@pytest.mark.parametrize(("states", "num_states"), [("last", 1), ("all", 3)])
def test_a_rule_that_reads_all_states_gets_them_though_it_reads_no_scores(
    states: Any, num_states: int, tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
):
    """An estimator of one's own, the mean of all states, once got the last ones alone, whatever `states` said."""
    seen: list[int] = []

    def mean(ladder: Ladder) -> Tensor:
        seen.append(ladder.num_states)
        weights = torch.zeros_like(ladder.log_likelihood)
        weights[-1] = 1 / ladder.num_draws / ladder.num_images
        return weights

    plain = ESTIMATORS["maximum-likelihood"]
    rule = replace(plain, weights=mean, states=states)
    monkeypatch.setitem(ESTIMATORS._own, plain.name, rule)
    config = tiny_config(PERSISTENT | {"posterior_chains.num_steps": 3})
    Trainer(config, build_model(config), len(INDEX)).step(images(config), INDEX, 0, 0)
    assert seen == [num_states]
