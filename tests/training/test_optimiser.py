"""The optimisers climb; the one of our own equals torch's where its two gradients are the same."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from thermograd.streams import stream
from thermograd.training.optimiser import CleanAdam, load_optimiser_tensors, make_optimiser, optimiser_tensors


def draws(step: int) -> dict[str, Tensor]:
    return {
        "weight": torch.randn(4, 3, generator=stream(0, "weight", step)),
        "bias": 1e-3 * torch.randn(4, generator=stream(0, "bias", step)),
    }


def climb(
    optimiser: torch.optim.Optimizer,
    parameters: Mapping[str, Tensor],
    gradient: Mapping[str, Tensor],
    clean: Mapping[str, Tensor] | None = None,
) -> None:
    for name, tensor in parameters.items():
        tensor.grad = gradient[name]
    if isinstance(optimiser, CleanAdam):
        optimiser.clean = {tensor: (clean or gradient)[name] for name, tensor in parameters.items()}
    optimiser.step()


@pytest.mark.parametrize("betas", [(0.5, 0.999), (0.9, 0.99), (0.0, 0.0)])
def test_adam_equals_torchs_that_maximises(betas: tuple[float, float]):
    """NEW: Adam's betas were swapped."""
    ours, theirs = draws(99), draws(99)
    adam = CleanAdam(ours.values(), lr=0.01, betas=betas)
    reference = torch.optim.Adam(theirs.values(), lr=0.01, betas=betas, maximize=True)
    for step in range(20):
        for optimiser, parameters in ((adam, ours), (reference, theirs)):
            optimiser.param_groups[0]["lr"] = 0.01 * 0.9**step
            climb(optimiser, parameters, draws(step))
        for name in ours:
            torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["adam", "sgd"])
def test_the_optimiser_of_a_run_climbs_with_each_networks_rate(kind: str, tiny_config: Any):
    rates = {"optimiser.prior_lr": 1e-3, "optimiser.generator_lr": 1e-2}
    config = tiny_config({"optimiser.kind": kind, **rates})
    groups = {"prior": {"e": torch.zeros(3)}, "generator": {"g": torch.zeros(3)}}
    optimiser = make_optimiser(config, groups)
    parameters = {"e": groups["prior"]["e"], "g": groups["generator"]["g"]}
    climb(optimiser, parameters, {"e": torch.ones(3), "g": torch.ones(3)})
    torch.testing.assert_close(parameters["e"], torch.full((3,), 1e-3))
    torch.testing.assert_close(parameters["g"], torch.full((3,), 1e-2))


def test_a_model_without_an_energy_has_one_group(tiny_config: Any):
    optimiser = make_optimiser(tiny_config(), {"prior": {}, "generator": {"g": torch.zeros(3)}})
    assert [group["name"] for group in optimiser.param_groups] == ["generator"]


def test_clean_second_moments_scale_the_noisy_first_ones():
    """m from the noisy gradient, v from the clean one, in the plain formula."""
    b1, b2, lr = 0.5, 0.9, 0.01
    parameters, expected = draws(99), draws(99)["weight"].double()
    adam = CleanAdam(parameters.values(), lr=lr, betas=(b1, b2))
    m, v = torch.zeros(4, 3).double(), torch.zeros(4, 3).double()
    for step in range(5):
        clean, noisy = draws(step), {name: 3 * tensor for name, tensor in draws(100 + step).items()}
        climb(adam, parameters, noisy, clean)
        m = b1 * m + (1 - b1) * noisy["weight"]
        v = b2 * v + (1 - b2) * clean["weight"] ** 2
        expected = expected + lr * (m / (1 - b1 ** (step + 1))) / ((v / (1 - b2 ** (step + 1))).sqrt() + 1e-8)
        torch.testing.assert_close(parameters["weight"].double(), expected, rtol=0, atol=1e-6)


def test_noise_shortens_adams_steps_unless_second_moments_are_clean():
    """Signal 1, own standard deviation 1, added noise of standard deviation 4: Adam's mean step falls by 67 %."""

    def mean_move(clean_moments: bool) -> float:
        parameter = {"p": torch.zeros(2000)}
        adam = CleanAdam(parameter.values(), lr=1.0, betas=(0.5, 0.999))
        for step in range(200):
            generator = stream(0, "noise", step)
            clean = 1 + torch.randn(2000, generator=generator)
            noisy = clean + 4 * torch.randn(2000, generator=generator)
            climb(adam, parameter, {"p": noisy}, {"p": clean} if clean_moments else None)
        return float(parameter["p"].mean()) / 200

    # Of 1 / sqrt(1 + 1) and 1 / sqrt(1 + 1 + 16).
    assert mean_move(True) == pytest.approx(2**-0.5, rel=0.05)
    assert mean_move(False) == pytest.approx(18**-0.5, rel=0.05)


@pytest.mark.parametrize("clean", [False, True])
def test_an_optimiser_goes_on_from_its_tensors_as_if_never_stopped(clean: bool, tiny_config: Any):
    extra = {"gradient.noise_multiplier": 2.0, "gradient.num_chains": 2} if clean else {}
    config = tiny_config({**extra, "gradient.clean_second_moments": clean})
    whole, parts = draws(99), draws(99)

    def made(parameters: dict[str, Tensor]) -> torch.optim.Optimizer:
        return make_optimiser(config, {"prior": {}, "generator": parameters})

    one, two = made(whole), made(parts)
    assert isinstance(one, CleanAdam) == clean
    names = {tensor: name for name, tensor in parts.items()}
    for step in range(6):
        climb(one, whole, draws(step))
        climb(two, parts, draws(step))
        kept = {name: tensor.clone() for name, tensor in optimiser_tensors(two, names).items()}
        two = made(parts)
        load_optimiser_tensors(two, names, kept)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
