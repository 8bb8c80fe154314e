"""Arms x cells x seeds -> runs, each with what it costs, before any is started."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from thermograd.config.names import EXTRACTORS, choose_extractor
from thermograd.config.resolve import resolve
from thermograd.config.schema import RunConfig, evaluations_per_image
from thermograd.errors import InputError, nearest
from thermograd.study.arms import Arm, cell_name, expand_arms
from thermograd.study.costs import Pace, hours
from thermograd.study.file import StudyFile
from thermograd.study.outlook import distances_of_too_few
from thermograd.study.run import StudyRun

if TYPE_CHECKING:
    from thermograd.data import ImageDataset


def plan_runs(study: StudyFile) -> list[StudyRun]:
    """Return the runs of a study, seeds within arms, after checking every config and data set.

    With `equal: epochs` each arm trains for its own `training.num_epochs`, most often the preset's. With
    `equal: evaluations` the first arm of the file (in the first cell) sets a budget, the generator evaluations of its
    epochs, and every other arm trains for the whole number of epochs whose evaluations come nearest to it.

    Raises:
        InputError: a setting at fault (the message names the arm), two arms that are the same run, a contrast of an
            arm that does not exist, data that does not load, or an arm that cannot be held equal.
    """
    arms = expand_arms(study)
    names = [arm.name for arm in arms]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"`arms` give the name {name!r} twice; rename one.")
    for contrast in study.contrasts:
        for side in (contrast.a, contrast.b):
            if side not in names:
                raise InputError(f"`contrasts.{contrast.name}` names no arm {side!r}{nearest(side, names)}")
    configs = _match_compute(study, arms)
    sizes = _check_data(configs)
    if study.equal == "evaluations":
        configs = _match_evaluations(study, arms, configs, sizes)
    runs = [
        StudyRun.plan(arm.name, arm.ready, arm.cell, config, requested, sizes[_data_key(config)])
        for arm, settings in zip(arms, configs, strict=True)
        for config, requested in (_resolve(study, arm.name, settings[1], seed) for seed in arm.seeds)
    ]
    first: dict[str, str] = {}
    for run in runs:
        try:
            epochs = run.resolved.training.num_epochs
            study.measure.check_clock(epochs, run.num_steps // epochs)
        except InputError as error:
            raise InputError(f"`arms.{run.arm}`: {error}") from None
        other = first.setdefault(run.identity, run.arm)
        if other != run.arm:
            raise InputError(f"`arms` {other!r} and {run.arm!r} are the same run; remove one.")
    return runs


Resolved = tuple[RunConfig, dict[str, Any]]


def _resolve(study: StudyFile, arm: str, overrides: Mapping[str, Any], seed: int) -> Resolved:
    if "seed" in overrides:
        raise InputError(f"`arms.{arm}` must not set `seed`: seeds are paired across arms by `seeds`.")
    if any(name.split(".")[0] == "measure" for name in overrides):
        raise InputError(
            f"`arms.{arm}` must not set `measure`: all runs are measured alike, by the study's own."
        )
    try:
        overrides = {**overrides, "measure": study.measure.model_dump(mode="json")}
        config, requested = resolve(study.preset, overrides={**overrides, "seed": seed})
        if config.data.path is not None and not config.data.path.is_absolute():
            # Workers may stand in other folders.
            whole = str(config.data.path.expanduser().resolve())
            config, requested = resolve(
                study.preset, overrides={**overrides, "seed": seed, "data.path": whole}
            )
        if unknown := [plugin.file.name for plugin in config.plugins if plugin not in study.plugins]:
            raise InputError(f"`plugins` of the study must name {unknown[0]}.")
        return config.with_plugins_used(), requested
    except InputError as error:
        raise InputError(f"`arms.{arm}`: {error}") from None


def _match_compute(study: StudyFile, arms: list[Arm]) -> list[tuple[RunConfig, dict[str, Any]]]:
    """Return (config at the first seed, overrides) of each arm, vanilla-matched with the chains it can afford."""
    overrides = [dict(arm.overrides) for arm in arms]
    configs = [
        _resolve(study, arm.name, o, study.seeds[0])[0] for arm, o in zip(arms, overrides, strict=True)
    ]
    by_name = {arm.name: config for arm, config in zip(arms, configs, strict=True)}
    for i, arm in enumerate(arms):
        if not arm.is_matched:
            continue
        ladders = [a.name for a in arms if by_name[a.name].gradient.needs_prior_rung and a.cell == arm.cell]
        if arm.to is None and not ladders:
            raise InputError(f"`arms.{arm.name}` has no ladder to match: name an arm in `to`.")
        to = arm.to or ladders[0]
        target = by_name.get(f"{to}{cell_name(arm.cell)}", by_name.get(to))
        if target is None or to == arm.name:
            raise InputError(f"`arms.{arm.name}.to` names no arm {to!r}{nearest(to, list(by_name))}")
        of_one_chain = evaluations_per_image(configs[i]) / configs[i].gradient.num_chains
        chains = max(1, round(evaluations_per_image(target) / of_one_chain))
        overrides[i]["gradient.num_chains"] = chains
    return [
        (_resolve(study, arm.name, o, study.seeds[0])[0], o) for arm, o in zip(arms, overrides, strict=True)
    ]


def _match_evaluations(
    study: StudyFile, arms: list[Arm], configs: list[Resolved], sizes: dict[str, int]
) -> list[Resolved]:
    """Return the arms with the epochs whose evaluations come nearest to those of the first arm."""

    def of_an_epoch(config: RunConfig) -> int:
        images = sizes[_data_key(config)] // config.training.batch_size * config.training.batch_size
        return images * evaluations_per_image(config)

    budget = configs[0][0].training.num_epochs * of_an_epoch(configs[0][0])
    matched = []
    for arm, (config, overrides) in zip(arms, configs, strict=True):
        epochs = round(budget / of_an_epoch(config))
        if epochs < 1:
            raise InputError(
                f"`equal` evaluations leaves `arms.{arm.name}` no epoch: one costs {of_an_epoch(config):,} "
                f"generator evaluations, and {arms[0].name!r} spends {budget:,} in all; raise its num_epochs."
            )
        new = {**overrides, "training.num_epochs": epochs}
        matched.append((_resolve(study, arm.name, new, study.seeds[0])[0], new))
    return matched


def _data_key(config: RunConfig) -> str:
    return config.data.model_dump_json() + str(config.model.image_shape)


def _check_data(configs: list[Resolved]) -> dict[str, int]:
    """Load each data set once, for its size and so that a missing one is found now."""
    from thermograd.training.builder import load_data

    sizes: dict[str, int] = {}
    for config, _ in configs:
        key = _data_key(config)
        if key not in sizes:
            sizes[key] = len(load_data(config))
            load_data(config, "test")
        if config.training.batch_size > sizes[key]:
            raise InputError(
                f"`training.batch_size` must be at most the {sizes[key]} training images of {config.data.name}, "
                f"got {config.training.batch_size}."
            )
    return sizes


def check_metrics(study: StudyFile, runs: list[StudyRun]) -> None:
    """Check that the runs will measure what the contrasts compare.

    Raises:
        InputError: a distance by a network that the study does not use, one that has no labels to learn from, or
            one that the number of images does not allow.
    """
    from thermograd.training.builder import load_data

    known: set[str] = set()
    too_few: dict[str, str] = {}
    for config in one_config_per_data_set(runs):
        data: ImageDataset = load_data(config, "test")
        network = choose_extractor(study.measure.extractor, data.labels is not None)
        if network.needs_labels and data.labels is None:
            raise InputError(f"`measure.extractor` {network.name} needs labels, and {data.name} has none.")
        measured = network.distances + (network.full_distances if study.measure.variant == "full" else ())
        known |= {f"distance:{name.format(data=data.name)}" for name in measured}
        too_few |= distances_of_too_few(study, config)
    for contrast in study.contrasts:
        if contrast.metric.startswith("distance:") and contrast.metric not in known:
            raise InputError(
                f"`contrasts.{contrast.name}.metric` {contrast.metric!r} will not be measured"
                f"{nearest(contrast.metric, sorted(known))}"
            )
        reason = too_few.get(contrast.metric.removeprefix("distance:"))
        if reason is not None:
            raise InputError(f"`contrasts.{contrast.name}.metric` will not be measured: {reason}")


def one_config_per_data_set(runs: list[StudyRun]) -> list[RunConfig]:
    """Return a config of each data set that the runs have."""
    return list({_data_key(run.resolved): run.resolved for run in runs}.values())


def check_weights(study: StudyFile) -> None:
    """Check that the feature network which a study names has its weights on this machine.

    Raises:
        InputError: it has not.
    """
    from thermograd.evaluation.distances import make_extractor

    if EXTRACTORS[study.measure.extractor].needs_weights:
        make_extractor(study.measure.extractor, "", {}, study.measure.weights)


def describe_plan(study: StudyFile, runs: list[StudyRun], paces: Mapping[str, Pace]) -> dict[str, Any]:
    """Return the plan as plain data: one row per run, and the totals."""
    rows = [
        {
            "arm": run.arm,
            "seed": run.seed,
            "identity": run.identity,
            "epochs": run.resolved.training.num_epochs,
            "steps": run.num_steps,
            "chains": run.resolved.gradient.num_chains,
            "rungs": run.resolved.gradient.num_rungs,
            "evaluations_per_image_and_step": evaluations_per_image(run.resolved),
            "evaluations": run.evaluations,
            **hours(run, paces[run.arm]),
        }
        for run in runs
    ]
    return {
        "study": study.name,
        "equal": study.equal,
        "num_runs": len(rows),
        "evaluations": sum(run.evaluations for run in runs),
        "hours_on_one_worker": sum(row["hours"] for row in rows),
        "runs": rows,
    }
