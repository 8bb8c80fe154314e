"""Any estimator can be probed at a checkpoint."""

import json
import math
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import LADDER
from thermograd import cli
from thermograd.config import names
from thermograd.config.measure import Changes
from thermograd.config.resolve import validate
from thermograd.config.schema import RunConfig, evaluations_per_image
from thermograd.errors import InputError
from thermograd.evaluation import variance
from thermograd.evaluation.records import read_records
from thermograd.evaluation.settings import VarianceSettings
from thermograd.evaluation.variance import rows_of, variance_of_run
from thermograd.gradients.reference import ReferenceSettings
from thermograd.gradients.rules import ESTIMATORS
from thermograd.runs.run import Run, load_run
from thermograd.runs.train import train_run
from thermograd.training.builder import batch_images, build_model, load_data
from thermograd.training.chains import Chains
from thermograd.training.probe import (
    estimator_config,
    make_samplers,
    measure_batches,
    random_batches,
)
from thermograd.training.trainer import Trainer

MakeConfig = Callable[..., RunConfig]
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


def train(config: RunConfig, folder: Path) -> Path:
    assert train_run(config, folder) == "done"
    return folder


def test_batches_are_independent_and_hold_no_image_twice():
    index = random_batches(40, 16, 50, 0, "a")
    assert index.shape == (50, 16)
    assert all(len(set(row)) == 16 for row in index)
    assert len({tuple(sorted(row)) for row in index}) == 50
    assert np.array_equal(index, random_batches(40, 16, 50, 0, "a"))
    assert not np.array_equal(index, random_batches(40, 16, 50, 0, "b"))
    with pytest.raises(InputError, match="`batch_size` must be at most"):
        random_batches(10, 16, 2, 0, "a")


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
        "changes": changes,
        "reference": ReferenceSettings(num_rungs=3, num_burn_in=10, num_steps=20, every=5),
    }
    return validate(VarianceSettings, {**settings, **options})


@pytest.mark.parametrize(
    ("start", "estimator"),
    [
        *product(["base", "prior", "annealed"], ESTIMATORS),
        *product(["smc"], ["maximum-likelihood", "maximum-likelihood-stein"]),
    ],
)
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
        ({"estimators": ("detached",)}, "`estimators.0` 'detached' is not a known estimator; did you mean"),
        ({"estimators": ()}, "`estimators` must name at least one, got none."),
        ({"num_batches": 2}, "`num_batches` must be greater than or equal to 3, got 2."),
        ({"num_repeats": 1}, "`num_repeats` must be greater than or equal to 2, got 1."),
        ({"split": "valid"}, "`split` must be 'train' or 'test', got 'valid'."),
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
        (["--estimator", "detached"], "`--estimator` 'detached' is not a known estimator; did you mean"),
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
