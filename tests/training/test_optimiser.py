"""The optimisers climb, and equal torch's."""

import pytest
import torch
from torch import Tensor

from thermograd.streams import stream
from thermograd.training.optimiser import SGD, Adam


def draws(step: int) -> dict[str, Tensor]:
    return {
        "weight": torch.randn(4, 3, generator=stream(0, "weight", step)),
        "bias": 1e-3 * torch.randn(4, generator=stream(0, "bias", step)),
    }


@pytest.mark.parametrize("betas", [(0.5, 0.999), (0.9, 0.99), (0.0, 0.0)])
def test_adam_equals_torchs_that_maximises(betas: tuple[float, float]):
    """NEW: Adam's betas were swapped."""
    ours, theirs = draws(99), {name: tensor.clone() for name, tensor in draws(99).items()}
    adam = Adam(ours, betas)
    reference = torch.optim.Adam(theirs.values(), lr=0.01, betas=betas, maximize=True)
    for step in range(20):
        lr = 0.01 * 0.9**step
        before = {name: tensor.clone() for name, tensor in ours.items()}
        length = adam.step(draws(step), lr)
        reference.param_groups[0]["lr"] = lr
        for name, tensor in theirs.items():
            tensor.grad = draws(step)[name]
        reference.step()
        for name in ours:
            torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-6)
        moved = sum(float((ours[name] - before[name]).square().sum()) for name in ours) ** 0.5
        assert float(length) == pytest.approx(moved, rel=1e-4)


def test_clean_second_moments_scale_the_noisy_first_ones():
    """m from the noisy gradient, v from the clean one, in the plain formula."""
    b1, b2, lr = 0.5, 0.9, 0.01
    parameters, expected = draws(99), draws(99)["weight"].double()
    adam = Adam(parameters, (b1, b2))
    m, v = torch.zeros(4, 3).double(), torch.zeros(4, 3).double()
    for step in range(5):
        clean, noisy = draws(step), {name: 3 * tensor for name, tensor in draws(100 + step).items()}
        adam.step(noisy, lr, clean)
        m = b1 * m + (1 - b1) * noisy["weight"]
        v = b2 * v + (1 - b2) * clean["weight"] ** 2
        expected = expected + lr * (m / (1 - b1 ** (step + 1))) / ((v / (1 - b2 ** (step + 1))).sqrt() + 1e-8)
        torch.testing.assert_close(parameters["weight"].double(), expected, rtol=0, atol=1e-6)


def test_noise_shortens_adams_steps_unless_second_moments_are_clean():
    """Signal 1, own standard deviation 1, added noise of standard deviation 4: Adam's mean step falls by 67 %."""

    def mean_move(clean_moments: bool) -> float:
        parameter = {"p": torch.zeros(2000)}
        adam = Adam(parameter, (0.5, 0.999))
        for step in range(200):
            generator = stream(0, "noise", step)
            clean = 1 + torch.randn(2000, generator=generator)
            noisy = clean + 4 * torch.randn(2000, generator=generator)
            adam.step({"p": noisy}, 1.0, {"p": clean} if clean_moments else None)
        return float(parameter["p"].mean()) / 200

    # Of 1 / sqrt(1 + 1) and 1 / sqrt(1 + 1 + 16).
    assert mean_move(True) == pytest.approx(2**-0.5, rel=0.05)
    assert mean_move(False) == pytest.approx(18**-0.5, rel=0.05)


def test_sgd_adds_the_gradient_times_the_rate():
    parameters, expected = draws(99), draws(99)
    length = SGD(parameters).step(draws(1), 0.25)
    for name, tensor in parameters.items():
        torch.testing.assert_close(tensor, expected[name] + 0.25 * draws(1)[name])
    norm = sum(float(tensor.square().sum()) for tensor in draws(1).values()) ** 0.5
    assert float(length) == pytest.approx(0.25 * norm)


def test_adam_goes_on_from_its_state_as_if_never_stopped():
    whole, parts = draws(99), draws(99)
    one, two = Adam(whole), Adam(parts)
    for step in range(6):
        one.step(draws(step), 0.1)
        two.step(draws(step), 0.1)
        kept = {name: tensor.clone() for name, tensor in two.state().items()}
        two = Adam(parts)
        two.load_state(kept)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
