"""One call holds a rule or a kernel to its contract: the package's own pass, and each mistake is named."""

import re
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

import thermograd as tg
from thermograd.gradients.rules import ESTIMATORS, PRIOR_RULES

ML = ESTIMATORS["maximum-likelihood"]
CONTRAST = PRIOR_RULES["contrast"]


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_keeps_the_contract(name):
    tg.testing.check_estimator(ESTIMATORS[name])


@pytest.mark.parametrize("name", PRIOR_RULES)
def test_every_prior_rule_keeps_the_contract(name):
    tg.testing.check_prior_rule(PRIOR_RULES[name])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w, ladder: 2 * w, "1/B of its own|sum to 2"),
        (lambda w, ladder: w.float(), "finite weights"),
        (lambda w, ladder: w * w.new_tensor([1.5, 0.75, 0.75])[: ladder.num_images], "mixes images"),
        (lambda w, ladder: w * w.new_tensor([2.0, 0.0, 1.0, 1.0]).view(-1, 1), "order of chains"),
        (lambda w, ladder: w * ladder.log_likelihood.abs(), "a constant that is added"),
        (lambda w, ladder: w.add_(ladder.log_likelihood.zero_()), "changed the ladder"),
        (lambda w, ladder: w.flip(0), "states another limit"),
        (
            lambda w, ladder: w * (1 + ladder.log_likelihood - ladder.log_likelihood.mean(1, keepdim=True)),
            "states another limit",
        ),
    ],
)
def test_a_mistake_in_the_weights_is_named(change, message):
    wrong = replace(ML, weights=lambda ladder: change(ML.weights(ladder), ladder))
    with pytest.raises(AssertionError, match=message):
        tg.testing.check_estimator(wrong)


def test_a_bias_that_does_not_fall_is_seen():
    """A rule that excuses itself with `unbiased=False` must still come to its limit with more chains."""
    wrong = replace(ML, unbiased=False, weights=lambda ladder: ML.weights(ladder).flip(0))
    with pytest.raises(AssertionError, match="come nearer to its limit"):
        tg.testing.check_estimator(wrong)


def test_a_prior_rule_of_the_wrong_sign_is_seen():
    def weights(ladder):
        energy, shared = CONTRAST.weights(ladder)
        return -energy, shared

    with pytest.raises(AssertionError, match="states another limit"):
        tg.testing.check_prior_rule(replace(CONTRAST, weights=weights))


@pytest.mark.parametrize("kernel", [tg.MALA(0.3), tg.ULA(0.3)])
def test_the_kernels_keep_the_contract(kernel):
    tg.testing.check_kernel(kernel)


@dataclass(frozen=True)
class Walk(tg.Kernel):
    """Random walk, with a mistake or without."""

    name = "walk"
    is_reversible = True
    mistake: str = ""

    def step(self, target, state, t, generator):
        z = state.position
        noise = torch.randn(z.shape, generator=None if self.mistake == "seed" else generator, dtype=z.dtype)
        proposal = target.evaluate(z + self.step_size * noise)
        ratio = proposal.log_density(t) - state.log_density(t)
        state, info = self.accept(state, proposal, ratio * (0.5 if self.mistake == "ratio" else 1), generator)
        if self.mistake == "stale":
            state = state._replace(log_likelihood=proposal.log_likelihood)
        return (proposal if self.mistake == "always" else state), info


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ("ratio", "does not leave p_t"),
        ("always", "does not leave p_t"),
        ("stale", "not that of its position"),
        ("seed", "the same seed"),
    ],
)
def test_a_mistake_in_a_kernel_is_named(mistake, message):
    tg.testing.check_kernel(Walk(0.4))
    with pytest.raises(AssertionError, match=message):
        tg.testing.check_kernel(Walk(0.4, mistake=mistake))


def test_contributing_followed_to_the_letter(tmp_path):
    """Its files are written as they stand, pass the calls that it names, and train by the settings that it shows."""
    text = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
    estimator, kernel = re.findall(r"```python\n(.*?)```", text, re.S)
    (setting,) = re.findall(r"```yaml\n(.*?)```", text, re.S)
    (tmp_path / "mine.py").write_text(estimator)
    (tmp_path / "walk.py").write_text(kernel)
    (tmp_path / "config.yaml").write_text(
        setting.replace("mine.py", "mine.py, walk.py")
        + "posterior_chains: {kernel: random-walk}\ntraining: {num_epochs: 1}\n"
    )
    calls = re.findall(r"`(tg\.testing\.check_\w+\(.+?\))`", " ".join(text.split()))
    assert len(calls) == 2
    (tmp_path / "calls.py").write_text("from mine import *\nfrom walk import *\n" + "\n".join(calls))
    for command in (
        ["calls.py"],
        ["-m", "thermograd", *["train", "digits", "--config", "config.yaml", "--out", "run", "--no-measure"]],
    ):
        done = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, capture_output=True, text=True, timeout=500
        )
        assert done.returncode == 0, done.stdout + done.stderr
