"""What the images of a study allow, said before anything is trained: how they were read, and what will be left out."""

from typing import TYPE_CHECKING

from thermograd.config.names import choose_extractor
from thermograd.config.schema import RunConfig
from thermograd.errors import InputError
from thermograd.study.file import StudyFile

if TYPE_CHECKING:
    from thermograd.data import ImageDataset


def outlook(study: StudyFile, configs: list[RunConfig]) -> list[str]:
    """Return the notes on each data set of a study, and a line for each measurement that will be left out.

    Args:
        study: the study.
        configs: one run's config for each data set.
    """
    from thermograd.evaluation.distances import make_extractor
    from thermograd.metrics import left_out
    from thermograd.training.builder import load_data

    lines: list[str] = []
    for config in configs:
        splits = {split: load_data(config, split) for split in ("train", "test")}
        lines += [f"{splits['test'].name}: {note}" for note in splits["test"].notes]
        network = _network(study, splits)
        if network.needs_weights:
            try:
                make_extractor(network.name, "", splits, study.measure.weights)
            except InputError as error:
                lines.append(f"left out: distances: {error}")
                continue
        if not network.num_features:
            continue
        name = network.network.format(data=splits["test"].name)
        for split, data in splits.items():
            counts = len(data), study.measure.num_samples_at_the_end or study.measure.num_samples
            where = f"{data.name}:{split}"
            told = left_out(name, network.num_features, where, *counts, study.measure.variant)
            lines += [f"left out: {line}" for line in told]
    return lines


def distances_of_too_few(study: StudyFile, config: RunConfig) -> dict[str, str]:
    """Return a line for each distance to the test images, by its name, that their number does not allow."""
    from thermograd.metrics.counts import too_few
    from thermograd.training.builder import load_data

    splits = {split: load_data(config, split) for split in ("train", "test")}
    network, test = _network(study, splits), splits["test"]
    if not network.num_features:
        return {}
    name = network.network.format(data=test.name)
    counts = len(test), study.measure.num_samples_at_the_end or study.measure.num_samples
    return too_few(name, network.num_features, f"{test.name}:test", *counts, study.measure.variant)


def _network(study: StudyFile, splits: "dict[str, ImageDataset]"):
    return choose_extractor(study.measure.extractor, all(data.labels is not None for data in splits.values()))
