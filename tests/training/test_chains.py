"""The chains of a run: step sizes of their own for images, and chains that stand still."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from thermograd.config.schema import RunConfig
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
        assert seen[1]["standing_chains"] == pytest.approx(1 / 8)
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


def test_records_tell_of_standing_chains(tiny_config: MakeConfig):
    config = tiny_config(PERSISTENT)
    record = Trainer(config, build_model(config), 8).step(images(config), INDEX, 0, 0)
    assert {"standing_chains", "restarted_chains"} <= set(record)
    config = tiny_config({"posterior_chains.start": "base"})
    assert "standing_chains" not in Trainer(config, build_model(config), 8).step(images(config), INDEX, 0, 0)
