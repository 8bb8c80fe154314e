"""The fast paths equal the plain loop they are timed against, with the same draws."""

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from thermograd.config.resolve import resolve
from thermograd.config.schema import RunConfig
from thermograd.gradients.backward import learning_gradient
from thermograd.gradients.rules import ESTIMATORS, PRIOR_RULES, compute_weights
from thermograd.ladders.ladder import Ladder
from thermograd.ladders.quadrature import trapezoid_weights
from thermograd.ladders.sampler import Bottom, LadderSampler
from thermograd.ladders.schedules import power_schedule
from thermograd.machine import keep_freed_memory, peak_memory
from thermograd.models.generator import (
    BFLOAT16_WIDTH,
    Bfloat16Generator,
    ConvGenerator,
    DoublingConvolution,
    SeparateBiasConvolution,
    choose_precision,
)
from thermograd.models.latent_ebm import LatentEBM
from thermograd.samplers.langevin import ULA
from thermograd.samplers.mala import MALA
from thermograd.samplers.prior import sample_prior
from thermograd.samplers.target import Target
from thermograd.training.builder import build_model
from thermograd.training.trainer import Trainer

FOLDER = Path(__file__).parents[1] / "benchmarks"
PRIOR_STEPS, STEPS, BATCH = 60, 20, 4
MakeConfig = Callable[..., RunConfig]


def benchmark(name: str) -> ModuleType:
    """Import a benchmark, which is no part of the package."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


plain_loop = benchmark("plain_loop")
timing = benchmark("timing")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pair(preset: str) -> tuple[LatentEBM, Any, Tensor]:
    """Return the package's model, the plain one with the same weights, and images."""
    config, _ = resolve(preset)
    model = build_model(config)
    plain = plain_loop.PlainModel(
        config.model.latent_dim,
        config.model.image_shape,
        config.model.generator.widths,
        config.model.noise_std,
    )
    generator = model.generator
    assert isinstance(generator, ConvGenerator)
    widths, side = config.model.generator.widths, 4
    # Biases start at 0, which would hide one that is read wrongly.
    for parameter in model.parameters():
        if parameter.dim() == 1:
            nn.init.normal_(parameter, std=0.1, generator=seeded(3))
    with torch.no_grad():
        first = plain.generator[0]
        first.weight.copy_(generator.project.weight.view(side, side, widths[0], -1).permute(3, 2, 0, 1))
        bias = generator.project.bias.view(side, side, widths[0])
        bias.copy_(bias[:1, :1].expand_as(bias).clone())  # the plain layer has one bias a channel
        first.bias.copy_(bias[0, 0])
    for ours, theirs in zip(generator.layers, plain.generator[1:-1], strict=True):
        theirs.load_state_dict(ours.state_dict())
    plain.energy.load_state_dict(model.energy_network.layers.state_dict())
    x = torch.rand(BATCH, *config.model.image_shape, generator=seeded(0)) * 2 - 1
    return model, plain, x


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def our_ladder(model: LatentEBM, x: Tensor, t: Tensor, prior: Tensor, vanilla: bool) -> Ladder:
    bottom: Bottom = "shared" if vanilla else "dealt"
    sampler, generator = LadderSampler(t, ULA(0.1), bottom=bottom), seeded(2)
    return sampler.run(model, x, sampler.start(model, x, generator), STEPS, generator, prior)[0]


@pytest.mark.parametrize(("preset", "num_rungs"), [("mnist", 2), ("svhn", 2), ("mnist", 4)])
def test_a_training_step_equals_the_plain_loop_with_the_same_draws(preset: str, num_rungs: int):
    model, plain, x = pair(preset)
    vanilla, d = num_rungs == 2, model.latent_dim
    t = power_schedule(num_rungs, 3.0)
    start = torch.randn(BATCH, d, generator=seeded(4))
    prior = sample_prior(model, ULA(0.4), PRIOR_STEPS, start, seeded(1))
    ladder = our_ladder(model, x, t, prior.latents, vanilla)
    estimator = "maximum-likelihood" if vanilla else "thermodynamic-detached"
    weights = compute_weights(ladder, ESTIMATORS[estimator], PRIOR_RULES["contrast"])
    ours = learning_gradient(model, x, ladder, weights)

    generator = seeded(1)
    noise = [torch.randn(BATCH, d, generator=generator) for _ in range(PRIOR_STEPS)]
    plain_prior = plain_loop.sample_prior(plain, start, noise, 0.4)
    generator, shape = seeded(2), (num_rungs - 1, 1, BATCH, d)
    starts = torch.randn(shape, generator=generator)
    noise = [torch.randn(shape, generator=generator) for _ in range(STEPS)]
    draws = [
        plain_loop.sample_posterior(plain, x, starts[k, 0], [n[k, 0] for n in noise], 0.1, float(t[k + 1]))
        for k in range(num_rungs - 1)
    ]
    shares = [1.0] if vanilla else trapezoid_weights(t).tolist()
    used = draws if vanilla else [plain_prior, *draws]
    plain_loop.losses(plain, x, used, shares, plain_prior).backward()

    assert relative(prior.latents, plain_prior) < 1e-4
    assert relative(ladder.latents[-len(draws) :, 0], torch.stack(draws)) < 1e-4
    for name, parameter in (
        ("energy_network.layers.0.weight", plain.energy[0].weight),
        ("generator.layers.1.weight", plain.generator[2].weight),
        ("generator.layers.5.weight", plain.generator[6].weight),
        ("generator.layers.5.bias", plain.generator[6].bias),
    ):
        assert relative(-ours[name], parameter.grad) < 1e-4, name  # ours rises, a loss falls


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [1, 5])
@pytest.mark.parametrize("kernel", [3, 4])
def test_convolutions_of_our_own_are_transposed_convolutions(kernel: int, channels: int, size: int):
    kind = SeparateBiasConvolution if kernel == 3 else DoublingConvolution
    ours = kind(6, channels).double()
    theirs = nn.ConvTranspose2d(6, channels, kernel, stride=2, padding=1).double()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(3, 6, size, size, dtype=torch.float64, generator=seeded(0)).requires_grad_()
    torch.testing.assert_close(ours(x), theirs(x))
    cotangent = torch.randn(theirs(x).shape, dtype=torch.float64, generator=seeded(1))
    mine = torch.autograd.grad(ours(x), [x, *ours.parameters()], cotangent)
    wanted = torch.autograd.grad(theirs(x), [x, *theirs.parameters()], cotangent)
    for a, b in zip(mine, wanted, strict=True):
        torch.testing.assert_close(a, b)


# --- what is left out ---


class Counting(nn.Module):
    """A generator that counts evaluations by whether they keep a graph."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner, self.with_graph, self.without = inner, 0, 0

    def forward(self, z: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            self.with_graph += len(z)
        else:
            self.without += len(z)
        return self.inner(z)


@pytest.mark.parametrize(("kernel", "with_graph", "without"), [(ULA(0.1), 3, 2), (MALA(0.1), 4, 1)])
def test_the_last_step_and_dealt_draws_need_no_backward_pass(
    tiny_config: MakeConfig, kernel: ULA | MALA, with_graph: int, without: int
):
    """2 chains of 2 images take 3 steps at t = 1; the 4 draws dealt out at t = 0 are evaluated once."""
    model = build_model(tiny_config())
    model.generator = counting = Counting(model.generator)
    x = torch.rand(2, 1, 8, 8, generator=seeded(0))
    prior = torch.randn(4, 4, generator=seeded(1))
    t = torch.tensor([0.0, 1.0], dtype=torch.float64)
    sampler, generator = LadderSampler(t, kernel, 2, bottom="dealt"), seeded(2)
    ladder, _ = sampler.run(model, x, sampler.start(model, x, generator), 3, generator, prior)
    assert (counting.with_graph, counting.without) == (4 * with_graph, 4 * without)
    torch.testing.assert_close(ladder.log_likelihood, model.log_likelihood(x, ladder.latents).detach())


def test_measure_equals_evaluate_and_has_no_score(tiny_config: MakeConfig):
    model = build_model(tiny_config())
    x = torch.rand(3, 1, 8, 8, generator=seeded(0))
    z = torch.randn(2, 2, 3, 4, generator=seeded(1))
    whole = Target(model, x).evaluate(z)
    for chunk_size in (None, 2, 5):
        found = Target(model, x, chunk_size).measure(z)
        for field in ("log_likelihood", "energy", "log_prior", "prior_score"):
            torch.testing.assert_close(getattr(found, field), getattr(whole, field))
        assert found.likelihood_score.isnan().all()


def test_short_run_prior_chains_take_the_steps_of_the_kernel(tiny_config: MakeConfig):
    model = build_model(tiny_config())
    start, kernel, generator = torch.randn(5, 4, generator=seeded(0)), ULA(0.4), seeded(1)
    draws = sample_prior(model, kernel, 3, start, seeded(1))
    target, t = Target(model), torch.zeros(())
    states = [kernel.init(target, start)]
    for _ in range(3):
        states.append(kernel.step(target, states[-1], t, generator)[0])
    torch.testing.assert_close(draws.latents, states[-1].position)
    torch.testing.assert_close(draws.energy, states[-1].energy)
    assert draws.acceptance == 1
    assert draws.score_norm == pytest.approx(float(states[-2].prior_score.norm(dim=-1).mean()), rel=1e-5)


# --- bfloat16 ---


def test_bfloat16_moves_the_gradient_by_less_than_a_fifth_of_the_chains_spread():
    """Both precisions take the same draws of noise, so their difference is that of precision alone."""
    model, _, x = pair("mnist")
    low, prior = model.with_bfloat16_generator(), torch.randn(BATCH, 32, generator=seeded(0))
    t = power_schedule(2, 3.0)

    def gradient(sampled: LatentEBM, seed: int) -> Tensor:
        sampler, generator = LadderSampler(t, ULA(0.1), bottom="shared"), seeded(seed)
        ladder, _ = sampler.run(sampled, x, sampler.start(sampled, x, generator), STEPS, generator, prior)
        weights = compute_weights(ladder, ESTIMATORS["maximum-likelihood"], PRIOR_RULES["contrast"])
        found = learning_gradient(model, x, ladder, weights)
        return torch.cat([found[name].flatten() for name in model.parameter_groups()["generator"]])

    exact = torch.stack([gradient(model, seed) for seed in range(8)])
    rough = torch.stack([gradient(low, seed) for seed in range(8)])
    spread = exact.var(0).sum().sqrt()
    difference = (rough - exact).square().sum(1).mean().sqrt()
    assert 0 < difference < 0.2 * spread


def test_the_bfloat16_model_keeps_latents_energies_and_likelihoods_in_float32():
    model, _, x = pair("mnist")
    low = model.with_bfloat16_generator()
    z = torch.randn(BATCH, 32, generator=seeded(0))
    found, wanted = low.evaluate(x, z), model.evaluate(x, z)
    assert isinstance(low.generator, Bfloat16Generator)
    assert all(field.dtype == torch.float32 for field in found)
    assert torch.equal(found.energy, wanted.energy)
    assert torch.equal(found.prior_score, wanted.prior_score)
    assert 0 < relative(found.log_likelihood, wanted.log_likelihood) < 1e-3
    # An untrained network's score is small against the pixels' terms that cancel in it.
    assert 0 < relative(found.likelihood_score, wanted.likelihood_score) < 0.1


def test_precision_is_of_training_chains_only(tiny_config: MakeConfig):
    mixed = Trainer(config := tiny_config({"compute.precision": "bfloat16-mixed"}), build_model(config), 36)
    exact = Trainer(config := tiny_config(), build_model(config), 36)
    x, index = torch.rand(8, 1, 8, 8, generator=seeded(0)), torch.arange(8)
    trained = [t.chains.draw(t.chain_model, x, index, 0).ladder for t in (mixed, exact)]
    assert not torch.equal(trained[0].latents, trained[1].latents)
    ladders = [t.chains.draw(t.model, x, index, 0).ladder for t in (mixed, exact)]
    assert torch.equal(ladders[0].latents, ladders[1].latents)
    assert all(parameter.dtype == torch.float32 for parameter in mixed.model.parameters())


def test_the_bfloat16_copy_follows_training(tiny_config: MakeConfig):
    trainer = Trainer(config := tiny_config({"compute.precision": "bfloat16-mixed"}), build_model(config), 36)
    x = torch.rand(config.training.batch_size, *config.model.image_shape, generator=seeded(0)) * 2 - 1
    index, z = torch.arange(len(x)), torch.randn(5, config.model.latent_dim, generator=seeded(1))
    before = trainer.chain_model.decode(z)  # type: ignore[operator]
    for step in range(3):
        trainer.step(x, index, step, 0)
    trainer.refreshed_model()
    assert isinstance(trainer.model, LatentEBM)
    after = trainer.chain_model.decode(z)  # type: ignore[operator]
    assert torch.equal(after, trainer.model.with_bfloat16_generator().decode(z))
    assert not torch.equal(after, before)


def test_auto_takes_bfloat16_for_wide_networks_on_processors_that_have_it(monkeypatch: pytest.MonkeyPatch):
    def network(width: int) -> ConvGenerator:
        return ConvGenerator(4, (1, 8, 8), (width,), True, seeded(0))

    for hardware in (False, True):
        monkeypatch.setattr(
            "thermograd.models.generator.torch.cpu.get_capabilities", lambda on=hardware: {"avx512_bf16": on}
        )
        chosen = choose_precision("auto", network(BFLOAT16_WIDTH))
        assert chosen == ("bfloat16-mixed" if hardware else "float32")
        assert choose_precision("auto", network(BFLOAT16_WIDTH - 1)) == "float32"
        assert choose_precision("bfloat16-mixed", network(2)) == "bfloat16-mixed"


def test_float32_is_the_default_and_leaves_a_runs_identity(tiny_config: MakeConfig):
    assert tiny_config().compute.precision == "float32"
    identities = {
        tiny_config({"compute.precision": p}).identity for p in ("float32", "bfloat16-mixed", "auto")
    }
    assert len(identities) == 3
    assert tiny_config({"compute.precision": "float32"}).identity == tiny_config().identity


# --- the tools ---


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc on Linux has the settings")
def test_freed_memory_is_kept():
    import resource

    assert keep_freed_memory()

    def faults() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(20):
            torch.ones(2**24)  # larger than what glibc keeps by itself
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    faults()  # the first tensors fetch their pages
    assert faults() < 8000  # of 20 x 16384 pages


def test_races_pair_rounds():
    times = timing.Times({"slow": [2.0, 9.0, 4.0], "fast": [1.0, 3.0, 1.0]})
    assert times.ratio("slow", "fast") == (3.0, 2.0, 4.0)
    assert times.median("slow") == 4.0
    calls: list[str] = []
    timing.race({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 2)
    assert calls == ["a", "b"] * 3


def test_bench_writes_its_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    bench = benchmark("bench")
    threads = torch.get_num_threads()
    monkeypatch.setattr(sys, "argv", ["bench.py", "--only", "machine", "--out", str(tmp_path / "b.json")])
    bench.main()
    torch.set_num_threads(threads)
    rates = json.loads((tmp_path / "b.json").read_text())["machine"]["rates"]
    assert all(0.1 < rate < 1e5 for rate in rates.values())


def test_peak_memory_counts_what_was_held():
    before = peak_memory(torch.device("cpu"))
    assert before is not None
    held = torch.ones(int((before + 0.25) * 2**30) // 4)  # more than all that was held so far
    del held
    after = peak_memory(torch.device("cpu"))
    assert after is not None
    assert before + 0.25 < after < 2 * before + 0.5
