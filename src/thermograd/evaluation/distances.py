"""Distances of samples, or of any folder of images, to a data set, each with its floor."""

from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from thermograd.config import names
from thermograd.config.schema import RunConfig
from thermograd.data import CATALOGUE, ImageDataset, load_dataset, load_user_images
from thermograd.errors import InputError
from thermograd.evaluation.settings import EvaluationSettings
from thermograd.metrics import (
    EfficientNetFeatures,
    FeatureExtractor,
    InceptionFeatures,
    Reference,
    classifier_features,
    floor,
    left_out,
    score_images,
)
from thermograd.metrics.counts import Variant
from thermograd.runs.run import Run
from thermograd.training.builder import load_data
from thermograd.training.samples import Samples

NETWORKS = {"efficientnet": EfficientNetFeatures, "inception": InceptionFeatures}
"""The feature networks that are not trained on the data's own labels."""


def make_extractor(
    name: str, data: str, splits: dict[str, ImageDataset], weights: Path | None = None
) -> FeatureExtractor | None:
    """Return the feature network that a user names, or None for "none".

    Raises:
        InputError: an unknown name, a classifier of images without labels, or weights that are not installed.
    """
    names.EXTRACTORS.check(name, "extractor")
    facts = names.choose_extractor(name, all(split.labels is not None for split in splits.values()))
    if not facts.measures:
        return None
    if not facts.needs_labels:
        return NETWORKS[facts.name](weights)
    train, test = splits["train"], splits["test"]
    if train.labels is None or test.labels is None:
        raise InputError(
            f"`distance` classifier needs labels, and {data} has none; try --distance efficientnet."
        )
    return classifier_features(data, train.images, train.labels, test.images, test.labels)


def whole_data(config: RunConfig) -> dict[str, ImageDataset]:
    """Return both splits of all of a run's data set, from which a classifier learns, however few the run trains on."""
    data = config.data.model_copy(update={"num_images": None})
    return {split: load_data(config.model_copy(update={"data": data}), split) for split in ("train", "test")}


def extractor_of_run(
    run: Run, splits: dict[str, ImageDataset], settings: EvaluationSettings
) -> tuple[FeatureExtractor | None, list[str]]:
    """Return the feature network of a run's distances, or None and, unless none was wanted, a line that says why.

    Raises:
        InputError: a network that was asked for by name and is not there.
    """
    full = splits if run.config.data.num_images is None else whole_data(run.config)
    try:
        return make_extractor(settings.extractor, splits["test"].name, full, settings.weights), []
    except InputError as error:
        if names.EXTRACTORS[settings.extractor].stands_for is None:
            raise
        return None, [f"distances: {error}"]


def distances_of_run(
    run: Run,
    samples: Samples,
    splits: dict[str, ImageDataset],
    settings: EvaluationSettings,
    extractor: FeatureExtractor | None,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the distances of samples to the split, each with its floor, and a line for each that is left out."""
    if extractor is None:
        return [], []
    split = settings.split
    reference = Reference(f"{splits[split].name}:{split}", splits[split].images)
    found = score_images(
        _batches(samples.images, settings.batch_size),
        reference,
        extractor,
        seed=settings.seed,
        variant=settings.variant,
        epoch=run.checkpoint.state["epoch"] + 1,
        step=run.checkpoint.step,
    )
    found += floor(reference, extractor, seed=settings.seed, variant=settings.variant)
    told = _left_out(extractor, reference, len(samples.images), settings.variant)
    return [asdict(record) for record in found], told


def _left_out(
    extractor: FeatureExtractor, reference: Reference, num_scored: int, variant: Variant
) -> list[str]:
    counts = len(reference.images), num_scored
    return left_out(extractor.name, extractor.num_features, reference.name, *counts, variant)


def score_folder(
    images: Path, reference: str, settings: EvaluationSettings, value_range: tuple[float, float] | None = None
) -> dict[str, Any]:
    """Score any folder or file of images against a split of a data set.

    Args:
        images: a folder of images, or a .npy, .npz, idx or HDF5 file; all its images are scored.
        reference: "NAME:SPLIT" of the catalogue, or "PATH:SPLIT" of images of the user's, e.g. "mnist:test".
        settings: extractor, variant and seed are read.
        value_range: the values of `images` that are black and white; None to recognise them.

    Returns:
        The distances, each with its floor; `left_out`, a line for each that the counts do not allow; and `notes` on how
        the images were read.

    Raises:
        InputError: a reference that is not NAME:SPLIT, or images that do not fit it.
    """
    name, _, split = reference.rpartition(":")
    if split not in ("train", "test"):
        raise InputError(f"`reference` must be NAME:train or NAME:test, got {reference!r}.")
    own = name not in CATALOGUE and Path(name).expanduser().exists()
    load = partial(load_user_images, Path(name)) if own else partial(load_dataset, name)
    splits = {each: load(each) for each in ("train", "test")}
    scored = load_user_images(images, "all", value_range=value_range)
    extractor = make_extractor(settings.extractor, splits["test"].name, splits, settings.weights)
    if extractor is None:
        raise InputError("`distance` must name a feature network to score images, got none.")
    target = Reference(f"{splits[split].name}:{split}", splits[split].images)
    records = score_images(scored.images, target, extractor, seed=settings.seed, variant=settings.variant)
    records += floor(target, extractor, seed=settings.seed, variant=settings.variant)
    return {
        "images": str(images),
        "num_images": len(scored),
        "value_range": list(scored.value_range),
        "notes": list(scored.notes),
        "reference": reference,
        "distances": [asdict(record) for record in records],
        "left_out": _left_out(extractor, target, len(scored), settings.variant),
    }


def _batches(images: Tensor, size: int) -> Iterator[Tensor]:
    yield from images.split(size)
