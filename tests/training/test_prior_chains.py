"""The prior's chains in training: further steps of the energy, chains that persist, and a ladder of them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from thermograd.config.schema import RunConfig
from thermograd.errors import InputError
from thermograd.samplers.prior import PriorSource
from thermograd.training.builder import batch_images, build_model, load_data
from thermograd.training.samples import sample_images
from thermograd.training.trainer import Trainer

MakeConfig = Callable[[dict[str, Any] | None], RunConfig]
PERSISTENT = {
    "prior_chains.kernel": "mala",
    "prior_chains.start": "persistent",
    "posterior_chains.start": "persistent",
}


def trained(config: RunConfig, num_steps: int = 1) -> Trainer:
    data = load_data(config)
    trainer = Trainer(config, build_model(config), len(data))
    index = torch.arange(config.training.batch_size)
    x = batch_images(config, data, index.numpy(), 0, trainer.device)
    for step in range(num_steps):
        trainer.step(x, index, step, 0)
    return trainer


@pytest.mark.parametrize("ladder", ["none", "dealt", "exchange"])
def test_a_further_update_of_the_energy_is_one_step_up_the_contrast(ladder: str, tiny_config: MakeConfig):
    """With SGD the second update adds lr (E_0[∇E] - E_1[∇E]), its E_0 from chains run on; the generator stays."""
    words = {**PERSISTENT, "optimiser.kind": "sgd", "optimiser.prior_lr": 0.1}
    if ladder != "none":
        words |= {"gradient.estimator": "thermodynamic-detached", "gradient.num_rungs": 4}
        words["posterior_chains.exchange"] = ladder == "exchange"
    once = trained(tiny_config(words))
    twice = trained(tiny_config({**words, "prior_chains.num_updates": 2}))
    for (name, a), b in zip(once.model.named_parameters(), twice.model.parameters()):
        assert torch.equal(a, b) == name.startswith("generator"), name
    chains = once.chains
    assert chains.stored is not None
    # A ladder that exchanges with its own t = 0 ran no prior chains before its first further update.
    prior = trained(twice.config, 0).chains.prior if ladder == "exchange" else chains.prior
    draws = prior.draw(once.model, 0, update=1)
    posterior = chains.stored[: once.config.training.batch_size, -1].flatten(0, 1)
    contrast = once.model.energy(draws.latents).mean() - once.model.energy(posterior).mean()
    names = once.groups["prior"]
    for name, gradient in zip(names, torch.autograd.grad(contrast, list(names.values()))):
        torch.testing.assert_close(
            names[name] + 0.1 * gradient, dict(twice.model.named_parameters())[name], rtol=1e-4, atol=1e-6
        )
    assert twice.chains.prior.stored is not None
    assert torch.equal(twice.chains.prior.stored, draws.chains)
    assert twice.num_evaluations == once.num_evaluations


def test_further_updates_have_noise_of_their_own_sign_and_leave_the_generator(tiny_config: MakeConfig):
    """On the same draws only the sign of the added noise tells the energy's gradients of eight updates apart."""
    noisy = trained(
        tiny_config({**PERSISTENT, "gradient.num_chains": 2, "gradient.noise_multiplier": 2.0}), 1
    )
    x, ladder, step = ladder_of(noisy)
    gradients = [noisy._gradient(x, ladder, step, update)[0] for update in range(8)]
    assert [set(each) for each in gradients] == [set(noisy.names.values())] + [set(noisy.groups["prior"])] * 7
    prior = next(iter(noisy.groups["prior"]))
    assert len({tuple(each[prior].flatten()[:3].tolist()) for each in gradients}) == 2


def ladder_of(trainer: Trainer) -> tuple[torch.Tensor, Any, int]:
    data = load_data(trainer.config)
    index = torch.arange(trainer.config.training.batch_size)
    x = batch_images(trainer.config, data, index.numpy(), 0, trainer.device)
    return x, trainer.chains.draw(trainer.model, x, index, 5).ladder, 5


def test_a_ladder_of_prior_chains_trains_stores_and_adapts_each_rung(tiny_config: MakeConfig):
    words = {**PERSISTENT, "prior_chains.num_rungs": 3}
    trainer = trained(tiny_config(words), 3)
    chains = trainer.chains
    assert chains.prior.stored is not None
    assert chains.prior.stored.shape == (3, 8, 4)
    assert len(set(chains.prior.step_size.tolist())) == 3
    again = trained(tiny_config(words), 0)
    again.load_tensors(trainer.tensors(), None)
    assert torch.equal(again.chains.prior.stored, chains.prior.stored)
    assert torch.equal(again.chains.prior.step_size, chains.prior.step_size)


def test_samples_go_on_from_the_stored_chains(tiny_config: MakeConfig):
    """One step of a tiny size leaves them where they stand; from the base distribution they would stand elsewhere."""

    config = tiny_config({**PERSISTENT, "prior_chains.num_sample_steps": 1})
    stored = 5 + torch.arange(8.0).unsqueeze(-1).expand(8, 4)
    source = PriorSource(config.prior_chains, torch.tensor(1e-6), stored)
    samples = sample_images(build_model(config), source, 8, 3)
    torch.testing.assert_close(samples.latents.sort(0).values, stored, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            {"prior_chains.num_rungs": 3},
            "`prior_chains.num_rungs` must be 1 unless chains are persistent, got 3",
        ),
        (
            {"prior_chains.num_updates": 2, "gradient.prior_rule": "covariance"},
            "`prior_chains.num_updates` must be 1 for prior rule covariance, got 2",
        ),
        ({"prior_chains.num_updates": 0}, "`prior_chains.num_updates` must be"),
    ],
)
def test_settings_that_do_not_fit_are_refused(words: dict[str, Any], message: str, tiny_config: MakeConfig):
    with pytest.raises(InputError, match=message):
        tiny_config(words)
