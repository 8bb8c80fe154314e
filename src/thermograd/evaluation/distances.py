"""Distances of samples, or of any folder of images, to a data set, each with its floor."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from thermograd.config import names
from thermograd.data import ImageDataset, load_dataset, load_user_images
from thermograd.errors import InputError
from thermograd.evaluation.settings import EvaluationSettings
from thermograd.metrics import (
    EfficientNetFeatures,
    FeatureExtractor,
    InceptionFeatures,
    Reference,
    classifier_features,
    floor,
    score_images,
)
from thermograd.runs.run import Run
from thermograd.training.samples import Samples


def make_extractor(
    name: str, data: str, splits: dict[str, ImageDataset], weights: Path | None = None
) -> FeatureExtractor | None:
    """Return the feature network that a user names, or None for "none".

    Raises:
        InputError: an unknown name, a classifier of images without labels, or weights that are not installed.
    """
    names.EXTRACTORS.check(name, "extractor")
    name = names.choose_extractor(name, all(split.labels is not None for split in splits.values())).name
    if name == "none":
        return None
    if name == "efficientnet":
        return EfficientNetFeatures(weights)
    if name == "inception":
        return InceptionFeatures(weights)
    train, test = splits["train"], splits["test"]
    if train.labels is None or test.labels is None:
        raise InputError(
            f"`distance` classifier needs labels, and {data} has none; try --distance efficientnet."
        )
    return classifier_features(data, train.images, train.labels, test.images, test.labels)


def extractor_of_run(
    run: Run, splits: dict[str, ImageDataset], settings: EvaluationSettings
) -> FeatureExtractor | None:
    """Return the feature network of a run's distances, or None where none are wanted."""
    if settings.extractor == "none":
        return None
    # The classifier learns from the whole data set, however few images the run was trained on.
    full = splits
    if run.config.data.num_images is not None and run.config.data.path is None:
        full = {split: load_dataset(run.config.data.name, split) for split in splits}
    return make_extractor(settings.extractor, splits["test"].name, full, settings.weights)


def distances_of_run(
    run: Run,
    samples: Samples,
    splits: dict[str, ImageDataset],
    settings: EvaluationSettings,
    extractor: FeatureExtractor | None,
) -> list[dict[str, Any]]:
    """Return the distances of samples to both splits, each with its floor."""
    if extractor is None:
        return []
    records: list[dict[str, Any]] = []
    for split in ("test", "train"):
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
        records += [{"split": split, **asdict(record)} for record in found]
    return records


def score_folder(images: Path, reference: str, settings: EvaluationSettings) -> dict[str, Any]:
    """Score any folder or file of images against a split of a data set.

    Args:
        images: a folder of images, or a .npy, .npz, idx or HDF5 file; all its images are scored.
        reference: "NAME:SPLIT" of the catalogue, e.g. "mnist:test".
        settings: extractor, variant and seed are read.

    Raises:
        InputError: a reference that is not NAME:SPLIT, or images that do not fit it.
    """
    name, _, split = reference.partition(":")
    if split not in ("train", "test"):
        raise InputError(f"`reference` must be NAME:train or NAME:test, got {reference!r}.")
    splits = {each: load_dataset(name, each) for each in ("train", "test")}
    scored = np.concatenate([load_user_images(images, each).images for each in ("train", "test")])
    extractor = make_extractor(settings.extractor, name, splits, settings.weights)
    if extractor is None:
        raise InputError("`distance` must name a feature network to score images, got none.")
    target = Reference(reference, splits[split].images)
    records = score_images(scored, target, extractor, seed=settings.seed, variant=settings.variant)
    records += floor(target, extractor, seed=settings.seed, variant=settings.variant)
    return {
        "images": str(images),
        "num_images": len(scored),
        "reference": reference,
        "distances": [asdict(record) for record in records],
    }


def _batches(images: Tensor, size: int) -> Iterator[Tensor]:
    yield from images.split(size)
