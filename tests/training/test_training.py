"""One training step: its gradients, its guards, its chains and what follows them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from thermograd.config.schema import RunConfig
from thermograd.data import batch_order
from thermograd.errors import InputError, RunError
from thermograd.gradients.rules import ESTIMATORS, PRIOR_RULES
from thermograd.ladders.named import make_schedule
from thermograd.ladders.record import LadderState
from thermograd.ladders.sampler import LadderSampler
from thermograd.ladders.schedules import check_schedule
from thermograd.streams import stream
from thermograd.training.builder import build_model
from thermograd.training.chains import Draws
from thermograd.training.guards import count_zero_gradients
from thermograd.training.trainer import Trainer

MakeConfig = Callable[..., RunConfig]
NUM_IMAGES = 20


def trainer_of(config: RunConfig) -> Trainer:
    return Trainer(config, build_model(config), NUM_IMAGES)


def batch(config: RunConfig, step: int = 0) -> tuple[Tensor, Tensor]:
    """Return images that are a function of their index, and the indices."""
    index = torch.randperm(NUM_IMAGES, generator=stream(1, "index", step))[: config.training.batch_size]
    pool = torch.rand((NUM_IMAGES, *config.model.image_shape), generator=stream(1, "pool"))
    x = pool[index]
    return ((x > 0.5).float() if config.model.likelihood == "bernoulli" else 2 * x - 1), index


def draw_of(trainer: Trainer, x: Tensor, index: Tensor, step: int, name: str = "") -> Draws:
    return trainer.chains.draw(trainer.refreshed_model(), x, index, step, name)


def run_steps(trainer: Trainer, num_steps: int) -> list[dict[str, Any]]:
    return [trainer.step(*batch(trainer.config, step), step, 0) for step in range(num_steps)]


def weights(trainer: Trainer) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in trainer.model.named_parameters()}


# --- gradients ---


@pytest.mark.parametrize("prior_rule", PRIOR_RULES)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_every_parameter_has_a_gradient_under_every_estimator(
    estimator: str, prior_rule: str, tiny_config: MakeConfig
):
    """THESIS: `bool("0")` is True, so that the prior's gradient was exactly 0 under thermodynamic integration."""
    rules = ESTIMATORS[estimator], PRIOR_RULES[prior_rule]
    scores_at_0 = any(r.uses_scores for r in rules) and any(r.needs_prior_rung for r in rules)
    config = tiny_config(
        {
            "gradient.estimator": estimator,
            "gradient.prior_rule": prior_rule,
            "gradient.num_chains": 2,
            "posterior_chains.exchange": ESTIMATORS[estimator].needs_exchange or scores_at_0,
        }
    )
    trainer = trainer_of(config)
    before = weights(trainer)
    (record,) = run_steps(trainer, 1)
    for name, tensor in weights(trainer).items():
        assert not torch.equal(tensor, before[name]), name
    for group in ("prior", "generator"):
        assert record[f"gradient_norm_{group}"] > 0
        assert record[f"update_length_{group}"] > 0


@pytest.mark.parametrize("start", ["base", "prior", "persistent"])
def test_the_contrast_of_energies_falls_after_a_step_of_the_prior(start: str, tiny_config: MakeConfig):
    """NEW: the sign of the prior's loss was flipped. E_post[E] - E_prior[E] on the same draws must fall."""
    config = tiny_config(
        {"posterior_chains.start": start, "optimiser.kind": "sgd", "optimiser.prior_lr": 1e-3}
    )
    trainer = trainer_of(config)
    x, index = batch(config)
    draws = draw_of(trainer, x, index, 0)
    assert draws.prior is not None

    def contrast() -> float:
        energy = trainer.model.energy
        with torch.no_grad():
            return float(energy(draws.ladder.latents[-1]).mean() - energy(draws.prior.latents).mean())

    before = contrast()
    record = trainer.step(x, index, 0, 0)  # the same step of the streams, so the same draws
    # To first order the contrast falls by lr |gradient|^2.
    assert contrast() - before == pytest.approx(-1e-3 * record["gradient_norm_prior"] ** 2, rel=0.05)


def test_the_log_likelihood_rises_on_the_same_draws(tiny_config: MakeConfig):
    config = tiny_config({"optimiser.kind": "sgd", "optimiser.generator_lr": 1e-7})
    trainer = trainer_of(config)
    x, index = batch(config)
    latents = draw_of(trainer, x, index, 0).ladder.latents[-1].double()

    def log_likelihood() -> float:
        with torch.no_grad():
            return float(trainer.model.double().log_likelihood(x.double(), latents).mean())

    before = log_likelihood()
    trainer.model.float()
    record = trainer.step(x, index, 0, 0)
    rise = log_likelihood() - before
    assert rise == pytest.approx(1e-7 * record["gradient_norm_generator"] ** 2, rel=0.05)


def test_training_learns(tiny_config: MakeConfig):
    config = tiny_config({"optimiser.generator_lr": 1e-2, "posterior_chains.start": "persistent"})
    records = run_steps(trainer_of(config), 60)
    assert records[-1]["log_likelihood"] > records[0]["log_likelihood"] + 50


# --- optimiser settings ---


def test_clipping_shortens_a_gradient_and_keeps_its_direction(tiny_config: MakeConfig):
    settings = {"optimiser.kind": "sgd", "optimiser.generator_lr": 1e-3, "optimiser.prior_lr": 1e-3}
    free, clipped = (
        trainer_of(tiny_config({**settings, **extra})) for extra in ({}, {"optimiser.clip_norm": 0.5})
    )
    before = weights(free)
    (record,), (clipped_record,) = run_steps(free, 1), run_steps(clipped, 1)
    assert record["gradient_norm_generator"] > 0.5
    assert clipped_record["gradient_norm_generator"] == record["gradient_norm_generator"]
    assert clipped_record["update_length_generator"] == pytest.approx(0.5e-3, rel=1e-4)
    moves = [
        torch.cat([(weights(t)[n] - before[n]).flatten() for n in before if n.startswith("generator")])
        for t in (free, clipped)
    ]
    assert float(torch.cosine_similarity(*moves, dim=0)) > 0.999


def test_rates_decay_by_epoch(tiny_config: MakeConfig):
    config = tiny_config({"optimiser.kind": "sgd", "optimiser.decay": 0.5, "optimiser.generator_lr": 1e-3})
    lengths = [
        trainer_of(config).step(*batch(config), 0, epoch)["update_length_generator"] for epoch in range(3)
    ]
    assert lengths[1] / lengths[0] == pytest.approx(0.5, rel=1e-4)
    assert lengths[2] / lengths[0] == pytest.approx(0.25, rel=1e-4)


def test_the_moving_average_is_the_recursion(tiny_config: MakeConfig):
    trainer = trainer_of(tiny_config({"optimiser.ema_decay": 0.8}))
    trainer.step(*batch(trainer.config), 0, 0)
    expected = weights(trainer)  # the average begins with the first step's weights
    for step in range(1, 4):
        trainer.step(*batch(trainer.config, step), step, 0)
        decay = min(0.8, (1 + step) / (10 + step))  # a young average forgets quickly
        expected = {name: decay * expected[name] + (1 - decay) * w for name, w in weights(trainer).items()}
    for name, tensor in trainer.weights().items():
        torch.testing.assert_close(tensor, expected[name])


def test_clean_second_moments_are_those_of_the_gradient_without_noise(tiny_config: MakeConfig):
    """The same draws with and without noise: Adam's second moments agree, its first ones differ."""
    base = {"gradient.num_chains": 2}
    noise = {**base, "gradient.noise_multiplier": 4.0}
    plain, noisy, clean = (
        trainer_of(tiny_config(o)) for o in (base, noise, {**noise, "gradient.clean_second_moments": True})
    )
    for trainer in (plain, noisy, clean):
        run_steps(trainer, 1)
    states = [
        [trainer.optimiser.state[p] for p in trainer.groups["generator"].values()]
        for trainer in (plain, noisy, clean)
    ]
    for without, with_noise, cleaned in zip(*states, strict=True):
        torch.testing.assert_close(cleaned["exp_avg_sq"], without["exp_avg_sq"])
        assert not torch.allclose(with_noise["exp_avg_sq"], without["exp_avg_sq"])
        torch.testing.assert_close(cleaned["exp_avg"], -with_noise["exp_avg"])  # torch descends -g
        assert not torch.allclose(with_noise["exp_avg"], without["exp_avg"])


# --- guards ---


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("group", ["energy_network", "generator"])
def test_weights_that_are_not_finite_stop_the_run(group: str, value: float, tiny_config: MakeConfig):
    trainer = trainer_of(tiny_config())
    with torch.no_grad():
        for name, tensor in trainer.model.named_parameters():
            if name.startswith(group):
                tensor.view(-1)[0] = value
    with pytest.raises(RunError, match=r"^The [a-z -]+ is not finite at step 7\.$"):
        trainer.step(*batch(trainer.config), 7, 0)


@pytest.mark.parametrize("kernel", ["ula", "mala"])
def test_nan_is_noticed_under_both_kernels(kernel: str, tiny_config: MakeConfig):
    """MALA rejects a proposal whose density is no number, so its chains stand still instead of turning NaN."""
    trainer = trainer_of(tiny_config({"posterior_chains.kernel": kernel, "prior_chains.kernel": kernel}))
    with torch.no_grad():
        next(trainer.model.generator.parameters()).fill_(torch.nan)
    with pytest.raises(RunError, match="not finite at step 0"):
        run_steps(trainer, 1)


def test_a_gradient_that_is_not_finite_is_named_and_changes_nothing(
    tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
):
    trainer = trainer_of(tiny_config({"optimiser.ema_decay": 0.5}))
    before = weights(trainer)
    original = Trainer._gradient

    def spoiled(self: Trainer, *arguments: Any) -> Any:
        gradient, clean = original(self, *arguments)
        gradient[self.model.parameter_groups()["generator"][0]].view(-1)[0] = torch.inf
        return gradient, clean

    monkeypatch.setattr(Trainer, "_gradient", spoiled)
    with pytest.raises(RunError, match=r"The gradient of the generator is not finite at step 0\."):
        run_steps(trainer, 1)
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(trainer).items())


def test_a_gradient_that_stays_exactly_zero_stops_the_run(tiny_config: MakeConfig):
    """As the bias of the energy's last layer would, or a parameter that nothing depends on."""
    config = tiny_config({"training.zero_gradient_steps": 3})
    model = build_model(config)
    model.generator.register_parameter("idle", torch.nn.Parameter(torch.ones(2)))
    trainer = Trainer(config, model, NUM_IMAGES)
    run_steps(trainer, 2)
    with pytest.raises(RunError, match=r"generator\.idle has been exactly zero for 3 steps, up to step 2"):
        trainer.step(*batch(config), 2, 0)


def test_a_gradient_that_is_zero_now_and_then_does_not_stop_a_run():
    gradient, other = {"weight": torch.zeros(2)}, {"weight": torch.tensor([0.0, 1.0])}
    counts = {"weight": 0}
    for step, each in enumerate([gradient, gradient, other, gradient, gradient]):
        count_zero_gradients(counts, each, 3, step)
    with pytest.raises(RunError, match="weight has been exactly zero for 3 steps, up to step 5"):
        count_zero_gradients(counts, gradient, 3, 5)


@pytest.mark.parametrize("which", ["prior", "posterior"])
def test_exploded_chains_stop_the_run(which: str, tiny_config: MakeConfig):
    """ULA diverges on a Gaussian where h > 2."""
    words = {f"{which}_chains.step_size": 20.0, f"{which}_chains.num_steps": 4}
    trainer = trainer_of(tiny_config(words))
    with pytest.raises(RunError, match=rf"The {which} latents exploded at step 0: mean length .*step_size"):
        run_steps(trainer, 1)


def test_stored_chains_beyond_the_bound_are_refused(tiny_config: MakeConfig):
    config = tiny_config({"posterior_chains.start": "persistent"})
    model = build_model(config)
    with pytest.raises(InputError, match=r"persistent would store 14\.9 GiB of chains \(at most 4\)"):
        Trainer(config, model, num_images=10**9)


# --- streams and chains ---


def test_a_step_is_a_function_of_its_number_and_seed(tiny_config: MakeConfig):
    config = tiny_config()
    x, index = batch(config)
    trainer = trainer_of(config)

    def draw(step: int, name: str = "") -> Tensor:
        return draw_of(trainer, x, index, step, name).ladder.latents

    once = draw(3)
    torch.rand(5)
    assert torch.equal(once, draw(3))
    assert not torch.equal(once, draw(4))
    assert not torch.equal(once, draw(3, "probe-"))
    other = trainer_of(tiny_config({"seed": 1}))
    other.model.load_state_dict(trainer.model.state_dict())
    assert not torch.equal(once, draw_of(other, x, index, 3).ladder.latents)


def test_seeds_and_epochs_change_the_order_of_images():
    """THESIS: all five repetitions shared their batches."""
    orders = [batch_order(100, 10, seed, epoch).ravel().tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4
    assert all(sorted(order) == list(range(100)) for order in orders)


def test_step_size_has_one_convention(tiny_config: MakeConfig):
    """The papers' h: from z one ULA step is z + (h^2/2) score + h noise. THESIS: step sizes twice the paper's.

    With a flat likelihood and no energy, one step from z ~ N(0, 1) has variance (1 - h^2/2)^2 + h^2.
    """
    h = 1.0
    words = {"prior_chains.step_size": h, "prior_chains.num_steps": 1, "prior_chains.num_chains": 20_000}
    trainer = trainer_of(
        tiny_config({**words, "posterior_chains.step_size": h, "posterior_chains.num_steps": 1})
    )
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.zero_()
    x, index = batch(trainer.config)
    draws = draw_of(trainer, x, index, 0)
    assert draws.prior is not None
    expected = (1 - h**2 / 2) ** 2 + h**2
    num = draws.prior.latents.numel()
    assert abs(float(draws.prior.latents.var()) - expected) < 4 * expected * (2 / num) ** 0.5
    posterior = torch.cat([draw_of(trainer, x, index, step).ladder.latents.flatten() for step in range(200)])
    assert abs(float(posterior.var()) - expected) < 4 * expected * (2 / len(posterior)) ** 0.5


@pytest.mark.parametrize("exchange", [False, True])
def test_persistent_chains_are_carried_for_each_image(exchange: bool, tiny_config: MakeConfig):
    words = {"posterior_chains.start": "persistent", "posterior_chains.exchange": exchange}
    words |= {"gradient.estimator": "thermodynamic-detached", "gradient.num_rungs": 4}
    trainer = trainer_of(tiny_config(words))
    assert trainer.chains.stored is not None
    before = trainer.chains.stored.clone()
    assert before.shape == (NUM_IMAGES, 4 if exchange else 3, 1, 4)
    x, index = batch(trainer.config)
    ladder = draw_of(trainer, x, index, 0).ladder
    trainer.step(x, index, 0, 0)
    for position, image in enumerate(index.tolist()):
        expected = ladder.latents[-before.shape[1] :, :, position]
        assert torch.equal(trainer.chains.stored[image], expected)
    others = torch.ones(NUM_IMAGES, dtype=torch.bool)
    others[index] = False
    assert torch.equal(trainer.chains.stored[others], before[others])


def test_a_persistent_chain_starts_where_its_image_stood(tiny_config: MakeConfig):
    """With steps too small to move, the draws of a batch are the stored latents of its images, in its order."""
    words = {"posterior_chains.start": "persistent", "posterior_chains.step_size": 1e-6}
    trainer = trainer_of(tiny_config(words))
    x, index = batch(trainer.config)
    latents = draw_of(trainer, x, index, 0).ladder.latents
    assert trainer.chains.stored is not None
    torch.testing.assert_close(latents[-1, 0], trainer.chains.stored[index, -1, 0], rtol=0, atol=1e-4)


def test_one_image_in_a_batch_does_not_change_anothers_chain(tiny_config: MakeConfig):
    trainer = trainer_of(tiny_config({"posterior_chains.kernel": "mala"}))
    x, index = batch(trainer.config)
    other = x.clone()
    other[1:] = -other[1:]
    one, two = (draw_of(trainer, each, index, 0).ladder.latents for each in (x, other))
    torch.testing.assert_close(one[..., 0, :], two[..., 0, :], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(one[..., 1, :], two[..., 1, :])


@pytest.mark.parametrize("num_rungs", [2, 5])
@pytest.mark.parametrize("exchange", [False, True])
@pytest.mark.parametrize("kernel", ["ula", "mala"])
@pytest.mark.parametrize("start", ["base", "prior", "annealed", "smc", "persistent"])
def test_all_starts_kernels_and_ladders_step(
    start: str, kernel: str, exchange: bool, num_rungs: int, tiny_config: MakeConfig
):
    if exchange and num_rungs == 2:
        with pytest.raises(InputError, match="more than 2 rungs"):
            tiny_config({"posterior_chains.exchange": True})
        return
    words: dict[str, Any] = {"posterior_chains.start": start, "posterior_chains.kernel": kernel}
    if num_rungs > 2:
        words |= {"gradient.estimator": "thermodynamic-detached", "gradient.num_rungs": num_rungs}
    words["posterior_chains.exchange"] = exchange
    if start == "smc" and num_rungs > 2:
        with pytest.raises(InputError, match=r"`gradient\.num_rungs` must be 2, got 5"):
            tiny_config(words)
        return
    trainer = trainer_of(tiny_config(words))
    before = trainer.chains.step_sizes.clone()
    records = run_steps(trainer, 3)
    rungs = num_rungs if num_rungs > 2 else 1
    assert len(records[-1]["acceptance"]) == rungs
    assert len(records[-1]["score_norm"]) == rungs
    assert all(norm > 0 for norm in records[-1]["score_norm"])
    assert torch.equal(before, trainer.chains.step_sizes) == (kernel == "ula")
    if kernel == "ula":
        assert set(records[-1]["acceptance"]) == {1.0}
    assert ("swap_rate" in records[-1]) == exchange


def test_mala_moves_its_steps_towards_the_target_acceptance(tiny_config: MakeConfig):
    """Steps far too long are shortened, from iteration to iteration, on the posterior and on the prior."""
    words = {"posterior_chains.kernel": "mala", "prior_chains.kernel": "mala", "optimiser.prior_lr": 1e-9}
    words |= {
        "posterior_chains.step_size": 2.0,
        "prior_chains.step_size": 6.0,
        "optimiser.generator_lr": 1e-9,
    }
    words |= {"posterior_chains.adaptation_gain": 0.5}
    trainer = trainer_of(tiny_config(words))
    records = run_steps(trainer, 60)
    assert records[0]["acceptance"][-1] < 0.1
    later = sum(record["acceptance"][-1] for record in records[30:]) / 30
    assert abs(later - 0.574) < 0.12
    assert abs(sum(record["acceptance_prior"] for record in records[30:]) / 30 - 0.574) < 0.12


def test_a_rung_without_chains_keeps_its_step_size(tiny_config: MakeConfig):
    """Dealt draws count as accepted; a step size that followed them would grow until it is infinite."""
    words = {"posterior_chains.kernel": "mala", "gradient.estimator": "thermodynamic-detached"}
    trainer = trainer_of(tiny_config(words | {"gradient.num_rungs": 4}))
    first = trainer.chains.step_sizes.clone()
    run_steps(trainer, 5)
    assert trainer.chains.step_sizes[0] == first[0]
    assert (trainer.chains.step_sizes[1:] != first[1:]).all()


@pytest.mark.parametrize(("num_steps", "wanted"), [(1, [0, 1, 0, 1]), (2, [0, 0, 0, 0]), (3, [0, 1, 0, 1])])
def test_pairs_that_swap_alternate_from_visit_to_visit(
    num_steps: int, wanted: list[int], tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
):
    """NEW: odd swaps never fire. Counted anew at each visit, a single step would swap even pairs alone."""
    seen: list[int] = []
    original = LadderSampler.run

    def record(self: LadderSampler, model: Any, x: Any, state: LadderState, *rest: Any) -> Any:
        seen.append(state.num_steps % 2)
        return original(self, model, x, state, *rest)

    monkeypatch.setattr(LadderSampler, "run", record)
    words = {"gradient.estimator": "thermodynamic-detached", "gradient.num_rungs": 4}
    words |= {"posterior_chains.exchange": True, "posterior_chains.num_steps": num_steps}
    run_steps(trainer_of(tiny_config(words)), 4)
    assert seen == wanted


def test_num_evaluations_counts_what_the_posterior_costs(tiny_config: MakeConfig):
    """One evaluation to begin and one a step, for each chain of each image."""
    trainer = trainer_of(tiny_config({"gradient.num_chains": 3, "posterior_chains.num_steps": 5}))
    run_steps(trainer, 2)
    assert trainer.num_evaluations == 2 * 8 * 3 * (1 + 5)


# --- schedules ---


@pytest.mark.parametrize("kind", ["power", "linear", "geometric", "sigmoid", "equal-length", "equal-swap"])
def test_schedules_begin_valid(kind: str, tiny_config: MakeConfig):
    words = {"gradient.estimator": "thermodynamic-detached", "gradient.schedule.kind": kind}
    words |= {"gradient.num_chains": 2, "posterior_chains.exchange": kind == "equal-swap"}
    config = tiny_config(words)
    schedule = make_schedule(config.gradient.schedule, config.gradient.num_rungs)
    check_schedule(schedule)
    assert len(schedule) == 11


@pytest.mark.parametrize("kind", ["equal-length", "equal-swap"])
def test_adapted_schedules_move_and_stay_valid(kind: str, tiny_config: MakeConfig):
    words = {
        "gradient.estimator": "thermodynamic-detached",
        "gradient.num_rungs": 5,
        "gradient.num_chains": 2,
    }
    words |= {"gradient.schedule.kind": kind, "gradient.schedule.adapt_every": 4}
    words |= {"posterior_chains.exchange": kind == "equal-swap"}
    trainer = trainer_of(tiny_config(words))
    begun = trainer.chains.schedule.clone()
    seen = []
    for step in range(13):
        trainer.step(*batch(trainer.config, step), step, 0)
        check_schedule(trainer.chains.schedule)
        seen.append(trainer.chains.schedule.clone())
    assert torch.equal(seen[2], begun)
    moved = [step for step in range(1, 13) if not torch.equal(seen[step], seen[step - 1])]
    assert moved == [3, 7, 11]


def test_other_schedules_do_not_move(tiny_config: MakeConfig):
    trainer = trainer_of(
        tiny_config({"gradient.estimator": "thermodynamic-detached", "gradient.schedule.adapt_every": 1})
    )
    begun = trainer.chains.schedule.clone()
    run_steps(trainer, 3)
    assert torch.equal(trainer.chains.schedule, begun)


# --- saving ---


@pytest.mark.parametrize("kind", ["equal-length", "equal-swap"])
def test_the_training_state_comes_back_whole(kind: str, tiny_config: MakeConfig):
    words: dict[str, Any] = {"gradient.estimator": "thermodynamic-detached", "gradient.num_chains": 2}
    words |= {"gradient.schedule.kind": kind, "gradient.schedule.adapt_every": 2, "optimiser.ema_decay": 0.9}
    words |= {"posterior_chains.exchange": kind == "equal-swap", "posterior_chains.start": "persistent"}
    words |= {"posterior_chains.kernel": "mala"}
    if kind == "equal-length":
        words |= {"prior_chains.kernel": "mala", "prior_chains.start": "persistent"}
    config = tiny_config(words)
    trainer, other = trainer_of(config), trainer_of(config)
    run_steps(trainer, 5)
    kept = {name: tensor.clone() for name, tensor in trainer.tensors().items()}
    other.model.load_state_dict(trainer.model.state_dict())
    other.load_tensors(kept, trainer.weights())
    again = other.tensors()
    assert set(again) == set(kept)
    assert all(torch.equal(again[name], kept[name]) for name in kept)
    one, two = (t.step(*batch(config, 5), 5, 0) for t in (trainer, other))
    assert one == two
