"""The config: resolved once, frozen, and refused with the field and the value."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from thermograd.config.describe import markdown_table, settings_table
from thermograd.config.resolve import preset_names, resolve, validate_config
from thermograd.config.schema import RunConfig
from thermograd.errors import InputError, nearest
from thermograd.files import read_yaml
from thermograd.streams import stream_seed

NOISE = {"gradient.noise_multiplier": 1.0, "gradient.num_chains": 2}
LADDER = {"gradient.estimator": "thermodynamic-detached", "gradient.num_chains": 2}


@pytest.mark.parametrize("name", preset_names())
def test_presets_resolve_and_come_back_from_yaml(name: str):
    config, requested = resolve(name)
    assert config.preset == name
    assert requested == {}
    again = validate_config(yaml.safe_load(config.to_yaml()))
    assert again == config
    assert again.identity == config.identity


def test_the_issues_presets_are_there():
    assert set(preset_names()) >= {
        "digits",
        "mnist-5k",
        "mnist",
        "fashion-mnist",
        "svhn",
        "cifar10",
        "celeba-64",
    }


@pytest.mark.parametrize(
    "preset", ["digits", "mnist-5k", "mnist", "fashion-mnist", "svhn", "cifar10", "celeba-64"]
)
def test_small_presets_have_a_density_for_a_prior_and_published_ones_the_published_sampler(preset: str):
    prior = resolve(preset)[0].prior_chains
    published = preset in ("svhn", "cifar10", "celeba-64")
    assert prior.is_short_run == published
    assert (prior.kernel, prior.num_updates > 1) == (("ula", False) if published else ("mala", True))


def test_the_published_svhn_settings():
    config, _ = resolve("svhn")
    prior, posterior, optimiser = config.prior_chains, config.posterior_chains, config.optimiser
    assert (prior.num_steps, prior.step_size) == (60, 0.4)
    assert (posterior.num_steps, posterior.step_size, posterior.start) == (20, 0.1, "base")
    assert (optimiser.prior_lr, optimiser.generator_lr) == (2e-5, 1e-4)
    assert (optimiser.betas, optimiser.decay) == ((0.5, 0.999), 0.998)
    assert (config.model.latent_dim, config.model.noise_std, config.training.batch_size) == (100, 0.3, 100)
    assert (config.model.energy.hidden, config.model.energy.activation) == ((200, 200), "gelu")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            {"gradient.noise_multiplier": 1.0, "gradient.num_chains": 1},
            "`gradient.num_chains` must be even for a noise_multiplier, got 1",
        ),
        ({**NOISE, "gradient.num_chains": 3}, "must be even for a noise_multiplier, got 3"),
        (
            {**NOISE, "gradient.estimator": "thermodynamic-complete"},
            "`gradient.num_chains` must be at least 4 for thermodynamic-complete",
        ),
        ({**NOISE, "gradient.noise_multiplier": -1.0}, "`gradient.noise_multiplier` must be greater than"),
        (
            {**NOISE, "gradient.noise_multiplier": True},
            "`gradient.noise_multiplier` must be a number, got True",
        ),
        ({**NOISE, "optimiser.clip_norm": 1.0}, "`optimiser.clip_norm` must be null with a noise_multiplier"),
        ({**NOISE, "prior_chains.num_chains": 5}, "`prior_chains.num_chains` must be even"),
        (
            {"gradient.clean_second_moments": True, "optimiser.kind": "sgd"},
            "`gradient.clean_second_moments` needs optimiser.kind adam",
        ),
        ({"gradient.num_rungs": 3}, "`gradient.num_rungs` must be 2 for maximum-likelihood, got 3"),
        ({**LADDER, "gradient.num_rungs": 1}, "`gradient.num_rungs` must be greater than or equal to 2"),
        (
            {"gradient.prior_rule": "covariance", "gradient.num_chains": 1},
            "`gradient.num_chains` must be at least 2",
        ),
        (
            {"posterior_chains.exchange": True},
            "`posterior_chains.exchange` needs a ladder of more than 2 rungs",
        ),
        ({**LADDER, "gradient.schedule.kind": "equal-swap"}, "`posterior_chains.exchange` must be true"),
        (
            {**LADDER, "gradient.num_chains": 1, "gradient.schedule.kind": "equal-length"},
            "`gradient.num_chains` must be at least 2 for schedule equal-length",
        ),
        (
            {"gradient.num_chains": 2, "gradient.schedule.kind": "equal-length"},
            "`gradient.num_rungs` must be at least 3 for schedule equal-length, got 2",
        ),
        (
            {"gradient.schedule.kind": "geometric"},
            "`gradient.num_rungs` must be at least 3 for schedule geometric",
        ),
        ({**LADDER, "prior_chains.num_chains": 7}, "`prior_chains.num_chains` must be null or 256"),
        ({"model.likelihood": "bernoulli"}, "`data.binarise` must be threshold or dynamic"),
        ({"data.binarise": "dynamic"}, "`data.binarise` must be none for a Gaussian likelihood"),
        ({"model.image_shape": [2, 8, 8]}, "`model.image_shape.0` must be 1 or 3, got 2"),
        ({"model.latent_dim": 0}, "`model.latent_dim` must be greater than or equal to 1, got 0"),
        ({"model.noise_std": True}, "`model.noise_std` must be a number, got True"),
        ({"optimiser.decay": 1.5}, "`optimiser.decay` must be less than or equal to 1, got 1.5"),
        ({"optimiser.clip_norm": 0}, "`optimiser.clip_norm` must be greater than 0, got 0"),
        ({"posterior_chains.exchange": "maybe"}, "`posterior_chains.exchange` must be a valid boolean"),
        ({"training.log_every": True}, "`training.log_every` must be a valid integer, got True"),
        ({"seed": 3, "seed.a": 3}, "`seed.a` is not a setting: `seed` is a value, 3."),
    ],
)
def test_bad_settings_name_the_field_and_the_value(overrides: dict[str, Any], words: str):
    with pytest.raises(InputError) as caught:
        resolve("digits", overrides=overrides)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_two_errors_are_both_named_on_one_line():
    with pytest.raises(InputError, match=r"`seed`.*`training.num_epochs`"):
        resolve("digits", overrides={"seed": -1, "training.num_epochs": 0})


@pytest.mark.parametrize(
    ("text", "value"), [("0", False), (0, False), ("1", True), (False, False), ("no", False)]
)
def test_zero_is_false(text: Any, value: bool):
    """THESIS: `bool("0")` is True."""
    overrides = {**LADDER, "posterior_chains.exchange": text}
    assert resolve("digits", overrides=overrides)[0].posterior_chains.exchange is value


def test_a_config_is_frozen():
    config, _ = resolve("digits")
    with pytest.raises(ValueError, match="frozen"):
        config.training.num_epochs = 5  # type: ignore[misc]


def test_every_setting_that_changes_a_number_changes_the_identity():
    config, _ = resolve("digits")
    for dotted, value in (("seed", 1), ("optimiser.decay", 0.9), ("model.energy.activation", "silu")):
        assert resolve("digits", overrides={dotted: value})[0].identity != config.identity


def test_the_number_of_rungs_follows_the_estimator():
    assert resolve("digits")[0].gradient.num_rungs == 2
    assert resolve("digits", overrides=LADDER)[0].gradient.num_rungs == 11
    covariance = {
        "gradient.prior_rule": "covariance",
        "gradient.num_chains": 2,
        "prior_chains.num_updates": 1,
    }
    assert resolve("digits", overrides=covariance)[0].gradient.num_rungs == 11


def test_an_empty_file_asks_for_nothing(tmp_path: Path):
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert read_yaml(tmp_path / "empty.yaml") == {}
    config, _ = resolve("digits", file=tmp_path / "empty.yaml")
    assert config == resolve("digits")[0]


def test_nearest_names():
    assert nearest("minst", ["mnist", "svhn"]) == "; did you mean 'mnist'?"
    assert nearest("minst", ["mnist"], prefix="a.") == "; did you mean 'a.mnist'?"
    assert nearest("zzz", ["mnist", "svhn"]) == "; known are mnist, svhn."


def test_every_field_of_the_config_says_what_it_is_or_is_plain():
    """The YAML of a run has no setting that the typed config lacks, and the other way round."""
    config, _ = resolve("digits")
    assert set(yaml.safe_load(config.to_yaml())) == set(RunConfig.model_fields)


def test_streams_are_functions_of_seed_name_and_step():
    seeds = {
        stream_seed(seed, name, step)
        for seed in (0, 1, 11)
        for name in ("a", "b", "1/a")
        for step in (0, 1, 10)
    }
    assert len(seeds) == 27
    assert stream_seed(3, "x", 4) == stream_seed(3, "x", 4)


@pytest.mark.parametrize(
    ("overrides", "num_chains", "num_rungs"),
    [
        ({}, 1, 2),
        ({"gradient.estimator": "thermodynamic-detached"}, 1, 11),
        ({"gradient.estimator": "thermodynamic-complete", "gradient.num_rungs": 7}, 2, 7),
        ({"gradient.prior_rule": "covariance", "prior_chains.num_updates": 1}, 2, 11),
        ({"gradient.noise_multiplier": 2}, 2, 2),
        ({"gradient.noise_multiplier": 0.0}, 1, 2),
        ({"gradient.estimator": "stepping-stone-complete", "gradient.noise_multiplier": 2}, 4, 11),
    ],
)
def test_rungs_and_chains_are_as_few_as_the_estimator_needs(overrides, num_chains, num_rungs):
    """Peers: bool("0") is True; a multiplier of 0, as text or number, is no noise."""
    gradient = resolve("mnist", overrides=overrides)[0].gradient
    assert (gradient.num_chains, gradient.num_rungs) == (num_chains, num_rungs)
    text = {name: "0" if value == 0.0 else value for name, value in overrides.items()}
    assert resolve("mnist", overrides=text)[0].gradient == gradient


def test_the_table_of_settings_in_the_docs_is_made_from_the_types():
    page = (Path(__file__).parents[2] / "docs" / "settings.md").read_text()
    told = page.split("<!-- settings -->\n")[1].split("\n<!-- end of settings -->")[0]
    assert told == markdown_table(RunConfig), "print it with: thermograd settings --markdown"
    assert all(description for *_, description in settings_table(RunConfig))


def test_settings_are_told_with_type_range_and_default():
    rows = {name: (kind, default) for name, kind, default, _ in settings_table(RunConfig)}
    assert rows["training.num_epochs"] == ("integer ≥ 1", "20")
    assert rows["data.threshold"] == ("number > 0 < 1", "0.5")
    assert rows["optimiser.clip_norm"] == ("number > 0 or none", "none")
    assert rows["posterior_chains.kernel"] == ("ula | mala", "ula")
    assert rows["optimiser.betas"] == ("numbers ≥ 0 < 1", "[0.5, 0.999]")
    assert rows["data.name"][1] == "must be given"
    config = resolve("digits", overrides={"training.num_epochs": 7})[0]
    of_run = {row[0]: row[2] for row in settings_table(RunConfig, config.model_dump())}
    assert of_run["training.num_epochs"] == "7"
    assert of_run["data.name"] == "digits"
