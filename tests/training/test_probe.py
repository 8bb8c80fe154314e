"""Probes of runs: training is the same to the byte with and without; any estimator can be probed at a checkpoint."""

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import LADDER
from thermograd import cli
from thermograd.config import names
from thermograd.config.resolve import resolve
from thermograd.config.schema import RunConfig, evaluations_per_image
from thermograd.errors import InputError
from thermograd.evaluation import variance
from thermograd.evaluation.records import read_records
from thermograd.evaluation.variance import VarianceSettings, rows_of, variance_of_run
from thermograd.gradients.reference import ReferenceSettings
from thermograd.gradients.rules import ESTIMATORS
from thermograd.runs.folder import read_metrics
from thermograd.runs.run import Run, load_run
from thermograd.runs.train import train_run
from thermograd.training.builder import batch_images, build_model, load_data
from thermograd.training.chains import Chains
from thermograd.training.probe import (
    Changes,
    Probe,
    estimator_config,
    make_samplers,
    measure_batches,
    random_batches,
)
from thermograd.training.trainer import Trainer

MakeConfig = Callable[..., RunConfig]
PROBE: dict[str, Any] = {"probe.every": 9, "probe.batches": 3, "probe.repeats": 2}
EVERYTHING = {**PROBE, "probe.estimators": list(ESTIMATORS), "probe.by_rung": True}

CURRENT = names.ESTIMATORS.current
PERSISTENT: dict[str, Any] = {"posterior_chains.start": "persistent"}
SWAPS: dict[str, Any] = {
    "gradient.estimator": "stepping-stone-complete",
    "gradient.num_rungs": 4,
    "gradient.num_chains": 2,
    "gradient.schedule.kind": "equal-swap",
    "posterior_chains.exchange": True,
    "posterior_chains.start": "persistent",
}
NOISY: dict[str, Any] = {
    "gradient.num_chains": 2,
    "gradient.noise_multiplier": 2.0,
    "gradient.clean_second_moments": True,
    "data.binarise": "dynamic",
    "model.likelihood": "bernoulli",
}
KINDS = {"persistent": PERSISTENT, "ladder": LADDER, "swaps": SWAPS, "noisy": NOISY}


def last_files(folder: Path) -> dict[str, bytes]:
    last = (folder / "checkpoints" / "last").resolve()
    # metrics.json seals metrics.jsonl, to which probes add their own lines.
    return {file.name: file.read_bytes() for file in sorted(last.iterdir()) if file.name != "metrics.json"}


def train(config: RunConfig, folder: Path) -> Path:
    assert train_run(config, folder) == "done"
    return folder


# Nothing changes


def test_the_model_of_a_digits_run_is_the_same_to_the_byte_with_and_without_a_probe(tmp_path: Path):
    """On the real digits: model, training state and what is written about them."""
    short = {
        "training.num_epochs": 1,
        "data.num_images": 300,
        "training.batch_size": 50,
        "prior_chains.num_steps": 5,
        "posterior_chains.num_steps": 3,
        "posterior_chains.start": "persistent",
        "compute.num_threads": 1,
        "compute.device": "cpu",
        "training.pictures_every": 1000,
    }
    plain, probed = (
        train(resolve("digits", overrides={**short, **more})[0], tmp_path / name)
        for name, more in (("plain", {}), ("probed", {**PROBE, "probe.every": 3}))
    )
    before, after = last_files(plain), last_files(probed)
    assert "model.safetensors" in before
    assert before == after
    assert len([r for r in read_metrics(probed) if r["kind"] == "probe"]) == 2
    assert not [r for r in read_metrics(plain) if r["kind"] == "probe"]


@pytest.mark.parametrize("kind", KINDS)
def test_training_is_the_same_to_the_byte_with_and_without_a_probe(
    kind: str, tiny_config: MakeConfig, tmp_path: Path
):
    probe = PROBE if kind == "noisy" else EVERYTHING
    plain = train(tiny_config(KINDS[kind]), tmp_path / "plain")
    probed = train(tiny_config({**KINDS[kind], **probe}), tmp_path / "probed")
    assert last_files(plain) == last_files(probed)
    kept = [
        [{k: v for k, v in r.items() if k != "seconds"} for r in read_metrics(f) if r["kind"] == "train"]
        for f in (plain, probed)
    ]
    assert kept[0] == kept[1]


def test_a_probe_that_wrote_to_the_trainer_would_be_seen(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The comparison can fail: a probe that keeps its draws, or that draws from training's own streams, shows."""
    plain = train(tiny_config(PERSISTENT), tmp_path / "plain")
    measure = Probe.measure

    def keeping(self: Probe, step: int) -> dict[str, Any]:
        index = torch.from_numpy(self.fixed[0])
        x = batch_images(self.config, self.data, self.fixed[0], 0, self.trainer.device)
        chains, model = self.trainer.chains, self.trainer.model
        draws = chains.draw(model, x, torch.from_numpy(self.fixed[0]), step, name="probe-")
        chains.keep(model, x, draws, index, step)
        return measure(self, step)

    monkeypatch.setattr(Probe, "measure", keeping)
    probed = train(tiny_config({**PERSISTENT, **PROBE}), tmp_path / "probed")
    assert last_files(plain)["model.safetensors"] != last_files(probed)["model.safetensors"]


def test_probing_all_changes_nothing_in_the_trainer(tiny_config: MakeConfig):
    config = tiny_config({**LADDER, **EVERYTHING})
    data = load_data(config)
    trainer = Trainer(config, build_model(config), len(data))

    def state() -> dict[str, str]:
        tensors = {**trainer.tensors(), **trainer.model.state_dict()}
        return {
            name: hashlib.sha256(t.detach().contiguous().numpy().tobytes()).hexdigest()
            for name, t in tensors.items()
        }

    before, generator = state(), torch.random.get_rng_state()
    Probe(config, trainer, data).measure(1)
    assert state() == before
    assert torch.equal(generator, torch.random.get_rng_state())
    assert all(parameter.grad is None for parameter in trainer.model.parameters())


def test_a_stopped_run_goes_on_to_the_same_probes(tiny_config: MakeConfig, tmp_path: Path):
    config = tiny_config({**LADDER, **PROBE, "probe.every": 5})
    whole = train(config, tmp_path / "whole")
    left = [7]

    def stop() -> bool:
        left[0] -= 1
        return left[0] == 0

    assert train_run(config, tmp_path / "parts", should_stop=stop) == "stopped"
    parts = train(config, tmp_path / "parts")
    assert last_files(whole) == last_files(parts)
    records = [
        [{k: v for k, v in r.items() if k != "seconds"} for r in read_metrics(f) if r["kind"] == "probe"]
        for f in (whole, parts)
    ]
    assert [record["step"] for record in records[0]] == [5, 10]
    assert records[0] == records[1]


def test_the_probe_is_no_part_of_a_runs_identity(tiny_config: MakeConfig):
    """It changes no trained number, and runs from before there was one keep theirs."""
    assert tiny_config(PROBE).identity == tiny_config().identity
    assert tiny_config({"gradient.num_chains": 2}).identity != tiny_config().identity


# What a periodic probe writes


def test_a_record_has_every_estimator_network_layer_and_rung(tiny_config: MakeConfig, tmp_path: Path):
    folder = train(tiny_config({**PERSISTENT, **EVERYTHING, "probe.every": 12}), tmp_path / "run")
    (record,) = [r for r in read_metrics(folder) if r["kind"] == "probe"]
    assert (record["step"], record["batches"], record["repeats"]) == (12, 3, 2)
    assert set(record["estimators"]) == set(ESTIMATORS)
    layers = [name for name, _ in build_model(tiny_config()).named_parameters()]
    for name, kinds in record["estimators"].items():
        assert set(kinds) == {"fixed", "fresh"}
        for kind, found in kinds.items():
            assert set(found["blocks"]) == {"prior", "generator", "total", *layers}
            assert len(found["rungs"]) == (2 if name == "maximum-likelihood" else 11)
            for block in found["blocks"].values():
                assert block["chain_variance"]["value"] > 0
                assert ("batch_variance" in block) == (kind == "fresh")
        total = kinds["fresh"]["blocks"]["total"]
        assert (
            total["chain_variance"]["low"]
            < total["chain_variance"]["value"]
            < total["chain_variance"]["high"]
        )


def test_probes_at_other_steps_use_other_streams_and_batches(tiny_config: MakeConfig):
    config = tiny_config(PROBE)
    data = load_data(config)
    probe = Probe(config, Trainer(config, build_model(config), len(data)), data)
    first, again, other = probe.measure(1), probe.measure(1), probe.measure(2)
    assert first == again
    for kind in ("fixed", "fresh"):
        values = [
            each["estimators"]["maximum-likelihood"][kind]["blocks"]["total"]["chain_variance"]["value"]
            for each in (first, other)
        ]
        assert values[0] != values[1]


def test_the_added_noise_of_a_run_is_part_of_its_gradient(tiny_config: MakeConfig):
    """c adds c^2 times the chain variance: 5 times as much at c = 2, here from 3 x 40 repeats.

    With stored chains it would be more: the two halves of the chains stand at different places.
    """
    found = []
    for multiplier in (0.0, 2.0):
        noise = {"gradient.num_chains": 2, "gradient.noise_multiplier": multiplier, "probe.repeats": 40}
        config = tiny_config({**PROBE, **noise, "posterior_chains.start": "base"})
        data = load_data(config)
        record = Probe(config, Trainer(config, build_model(config), len(data)), data).measure(1)
        fresh = record["estimators"]["maximum-likelihood"]["fresh"]["blocks"]
        found.append({name: fresh[name]["chain_variance"]["value"] for name in ("generator", "prior")})
    for name in ("generator", "prior"):
        assert found[1][name] / found[0][name] == pytest.approx(5, rel=0.3)


def test_batches_are_independent_and_hold_no_image_twice():
    index = random_batches(40, 16, 50, 0, "a")
    assert index.shape == (50, 16)
    assert all(len(set(row)) == 16 for row in index)
    assert len({tuple(sorted(row)) for row in index}) == 50
    assert np.array_equal(index, random_batches(40, 16, 50, 0, "a"))
    assert not np.array_equal(index, random_batches(40, 16, 50, 0, "b"))
    with pytest.raises(InputError, match="`batch_size` must be at most"):
        random_batches(10, 16, 2, 0, "a")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("probe.every", 0, "`probe.every` must be greater than or equal to 1, got 0."),
        ("probe.batches", 2, "`probe.batches` must be greater than or equal to 3, got 2."),
        ("probe.repeats", 1, "`probe.repeats` must be greater than or equal to 2, got 1."),
        ("probe.repeat", 3, "`probe.repeat` is not a setting; did you mean 'probe.repeats'?"),
    ],
)
def test_bad_settings_are_one_line(name: str, value: Any, said: str, tiny_config: MakeConfig):
    with pytest.raises(InputError) as caught:
        tiny_config({name: value})
    assert str(caught.value) == said


def test_unknown_estimators_of_a_probe_are_refused(tiny_config: MakeConfig):
    with pytest.raises(InputError, match=r"`probe\.estimators.*'detached'"):
        tiny_config({"probe.estimators": ["detached"]})
    with pytest.raises(InputError, match=r"`probe\.estimators"):
        tiny_config({"probe.estimators": []})


# Other estimators at a checkpoint


@pytest.fixture(scope="module")
def trained(tiny_config: MakeConfig, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("probe") / "run"
    train(tiny_config(PERSISTENT), folder)
    return load_run(folder)


def small(**options: Any) -> VarianceSettings:
    changes = {"batch_size": 6, "num_rungs": 4, **options.pop("changes", {})}
    settings: dict[str, Any] = {
        "num_batches": 3,
        "num_repeats": 2,
        "changes": Changes(**changes),
        "reference": ReferenceSettings(num_rungs=3, num_burn_in=10, num_steps=20, every=5),
    }
    return VarianceSettings(**{**settings, **options})


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("start", ["base", "prior", "annealed"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_a_gradient_costs_is_known_before(
    kind: str, start: str, estimator: str, tiny_config: MakeConfig
):
    config = tiny_config(KINDS[kind])
    data = load_data(config)
    own = Trainer(config, build_model(config), len(data))
    changed = estimator_config(config, estimator, Changes(start=start, batch_size=4))
    index = random_batches(len(data), 4, 1, 0, "cost")
    images = [batch_images(config, data, index[0], 0, own.device)]
    (sampler,) = make_samplers(own.chains, own.model, {estimator: changed}, images[0])
    found = measure_batches(own.model, [sampler], images, index, 2, "cost")
    assert found[estimator].num_evaluations == pytest.approx(evaluations_per_image(changed))


def test_the_table_of_all_estimators(trained: Run):
    messages: list[str] = []
    settings = small(changes={"num_chains": 2}, estimators=tuple(ESTIMATORS))
    record = variance_of_run(trained, settings, messages.append)
    assert read_records(trained.folder, "variance")[-1] == record
    assert list(record.values["estimators"]) == list(ESTIMATORS)
    assert "generator evaluations" in messages[0]
    assert "minutes" in messages[0]
    rows = rows_of(record)
    assert [(row["estimator"], row["block"]) for row in rows] == [
        (name, block) for name in ESTIMATORS for block in ("generator", "prior", "total")
    ]
    for row in rows:
        for quantity in ("chain_variance", "batch_variance", "squared_bias", "mean_square_error"):
            assert math.isfinite(row[quantity]["value"]), quantity
    names = ("thermodynamic-detached", "thermodynamic-complete")
    shared = [record.values["estimators"][name]["log_likelihood_variance"] for name in names]
    assert shared[0] == shared[1]  # the same draws serve both
    reference = record.values["reference"]
    assert reference["num_evaluations"] > 0
    assert reference["r_hat_largest"] >= reference["r_hat_median"] > 0


def test_a_measurement_is_a_function_of_its_seed(trained: Run):
    def found(seed: int) -> Any:
        settings = small(seed=seed, reference=None, estimators=("maximum-likelihood",))
        return variance_of_run(trained, settings).values["estimators"]

    assert found(0) == found(0)
    assert found(0) != found(1)


def test_the_reference_does_not_change_what_is_measured_without_it(trained: Run):
    with_it, without = (
        variance_of_run(trained, small(estimators=("thermodynamic-detached",), reference=reference))
        for reference in (small().reference, None)
    )
    for block, quantities in without.values["estimators"]["thermodynamic-detached"]["blocks"].items():
        both = with_it.values["estimators"]["thermodynamic-detached"]["blocks"][block]
        assert quantities.items() <= both.items()
    assert without.values["reference"] is None


def test_the_weights_probed_are_those_being_trained(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Averaged weights are for samples; the learning gradient is taken elsewhere."""
    folder = train(tiny_config({"optimiser.ema_decay": 0.9}), tmp_path / "run")
    run = load_run(folder)
    own = run.trainer()
    name = next(iter(dict(own.model.named_parameters())))
    assert not torch.equal(own.model.get_parameter(name), run.model.get_parameter(name))
    probed: list[Any] = []
    measure = variance.measure_batches
    monkeypatch.setattr(
        variance,
        "measure_batches",
        lambda model, *rest, **words: probed.append(model) or measure(model, *rest, **words),
    )
    variance_of_run(run, small(reference=None, estimators=("maximum-likelihood",)))
    assert torch.equal(probed[0].get_parameter(name), own.model.get_parameter(name))


def test_equal_cost_gives_maximum_likelihood_what_the_ladder_spends(trained: Run):
    settings = small(
        estimators=("maximum-likelihood", "thermodynamic-complete"), equal_cost=True, reference=None
    )
    record = variance_of_run(trained, settings)
    costs = {name: each["num_evaluations_per_image"] for name, each in record.values["estimators"].items()}
    chains = {name: each["num_chains"] for name, each in record.settings["estimators"].items()}
    assert chains["thermodynamic-complete"] == 2
    assert chains["maximum-likelihood"] > 5
    spent = costs["maximum-likelihood"]
    one = spent / chains["maximum-likelihood"]
    assert spent <= costs["thermodynamic-complete"] < spent + one


def test_persistent_chains_are_used_where_all_have_them_and_by_no_one_else(trained: Run):
    def starts(*names: str) -> set[str]:
        record = variance_of_run(trained, small(estimators=names, reference=None))
        return {each["posterior_chains"]["start"] for each in record.settings["estimators"].values()}

    assert starts("maximum-likelihood") == {"persistent"}
    assert starts("maximum-likelihood", "thermodynamic-detached") == {"base"}
    test = small(estimators=("maximum-likelihood",), reference=None, split="test", changes={"batch_size": 3})
    found = variance_of_run(trained, test).settings["estimators"]["maximum-likelihood"]
    assert found["posterior_chains"]["start"] == "base"  # chains are stored for training images alone


def test_covariances_are_used_with_the_stored_chains_alone(tiny_config: MakeConfig):
    config = tiny_config(
        {
            f"posterior_chains.{k}": v
            for k, v in (("kernel", "mala"), ("start", "persistent"), ("precondition", "secant"))
        }
    )
    model, own = build_model(config), Chains(config, build_model(config), 8)
    own.step_sizes.fill_(0.7)
    x = torch.zeros(8, *config.model.image_shape)
    for changes, kept in (
        (Changes(), "secant"),
        (Changes(start="base"), "none"),
        (Changes(kernel="ula"), "none"),
    ):
        other = estimator_config(config, "maximum-likelihood", changes)
        assert other.posterior_chains.precondition == kept
        (sampler,) = make_samplers(own, model, {"it": other}, x)
        assert (sampler.chains.covariances is own.covariances) == (kept == "secant")
        # Step sizes are in units of the covariance, so they go with it.
        assert torch.equal(sampler.chains.step_sizes, own.step_sizes) == (kept == "secant")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"estimators": ("detached",)}, "`estimator` 'detached' is not a known estimator; did you mean"),
        ({"estimators": ()}, "`estimator` must be at least 1, got 0."),
        ({"num_batches": 2}, "`batches` must be at least 3, got 2."),
        ({"num_repeats": 1}, "`repeats` must be at least 2, got 1."),
        ({"split": "valid"}, "`split` must be train or test, got 'valid'."),
        ({"changes": {"start": "persistent"}}, "`start` persistent needs chains"),
        (
            {"changes": {"num_chains": 1}, "estimators": ("thermodynamic-complete",)},
            "`gradient.num_chains` must be at least 2",
        ),
        ({"changes": {"batch_size": 100}}, "`batch_size` must be at most"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(options: dict[str, Any], said: str, trained: Run):
    file = trained.folder / "measurements.jsonl"
    file.unlink(missing_ok=True)
    with pytest.raises(InputError) as caught:
        variance_of_run(trained, small(**options))
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)
    assert not file.exists()


# The command


def test_the_command_prints_a_table_and_the_cost_first(trained: Run, capsys: pytest.CaptureFixture[str]):
    words = ["--batches", "3", "--repeats", "2", "--batch-size", "6", "--num-rungs", "3"]
    assert cli.run(["variance", str(trained.folder), *words, "--reference-steps", "20"]) == 0
    printed = capsys.readouterr()
    assert "generator evaluations" in printed.err.splitlines()[0]
    for name in CURRENT:
        assert name in printed.out
    assert "chain variance" in printed.out
    assert "cosine" in printed.out
    assert "R-hat" in printed.out


def test_the_command_as_json(trained: Run, capsys: pytest.CaptureFixture[str]):
    words = ["--batches", "3", "--repeats", "2", "--batch-size", "6", "--no-reference", "--json"]
    names = ["--estimator", "maximum-likelihood", "--estimator", "maximum-likelihood"]
    assert cli.run(["variance", str(trained.folder), *words, *names]) == 0
    record = json.loads(capsys.readouterr().out)
    assert list(record["values"]["estimators"]) == ["maximum-likelihood"]
    assert record == vars(read_records(trained.folder, "variance")[-1])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--estimator", "detached"], "`estimator` 'detached' is not a known estimator; did you mean"),
        (["--batches", "2"], "--batches"),
        (["--repeats", "1"], "--repeats"),
        (["--power", "0"], "--power"),
        (["--checkpoint", "step_9"], "does not exist"),
    ],
)
def test_bad_options_are_one_line_and_exit_2(
    words: list[str], said: str, trained: Run, capsys: pytest.CaptureFixture[str]
):
    assert cli.run(["variance", str(trained.folder), *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("thermograd: ")
    assert said in error
    assert error.count("\n") == 1
