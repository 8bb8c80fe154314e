"""Every study file of the repository parses today, and each of its arms resolves."""

from pathlib import Path

import pytest

from thermograd.config.resolve import resolve
from thermograd.study.arms import expand_arms
from thermograd.study.file import read_study_file

ROOT = Path(__file__).parents[2]
FILES = sorted(
    file
    for place in ("docs", "benchmarks", "src/thermograd/study/ready")
    for file in (ROOT / place).rglob("*.yaml")
)


def test_there_are_files():
    names = {file.name for file in FILES}
    assert {
        "variance-and-quality.yaml",
        "convolutional.yaml",
        "dense.yaml",
        "chains.yaml",
        "demo.yaml",
    } <= names


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_study_file_parses_and_its_arms_resolve(file: Path):
    study = read_study_file(file)
    arms = expand_arms(study)
    assert {contrast.a for contrast in study.contrasts} <= {arm.name for arm in arms}
    for arm in arms:
        config, _ = resolve(study.preset, overrides={**arm.overrides, "seed": arm.seeds[0]})
        assert config.seed in study.seeds


@pytest.mark.parametrize("name", ["variance-and-quality", "convolutional"])
def test_the_findings_are_repeated_with_the_prior_and_the_rates_that_they_had(name: str):
    study = read_study_file(ROOT / "docs" / "findings" / f"{name}.yaml")
    for arm in expand_arms(study):
        config, _ = resolve(study.preset, overrides=arm.overrides)
        assert config.prior_chains.is_short_run
        assert (
            config.prior_chains.kernel,
            config.prior_chains.num_steps,
            config.prior_chains.num_updates,
        ) == ("ula", 40, 1)
        optimiser = config.optimiser
        assert (optimiser.prior_lr, optimiser.generator_lr, optimiser.ema_decay) == (2e-4, 1e-3, None)
