"""Score images against a reference set: features, distances, and a record of all they depend on.

    records = score_images(samples, Reference("mnist:test", images), extractor, seed=0, variant="quick")

`samples` is an array or batches from a generator. The features of the reference are kept on disk under a key
of everything that they depend on. `floor` is the distance between two halves of the reference: what real images score
at half the count. The kernel distance does not depend on the count, so a perfect model scores the floor; the Fréchet
distance falls with it, so there a perfect model scores less.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from thermograd.errors import InputError
from thermograd.files import cache_folder as user_cache
from thermograd.metrics.cache import hash_fields, read_tensors, write_tensors
from thermograd.metrics.counts import QUICK_COUNT, Variant, distance_name, images_needed
from thermograd.metrics.distance import (
    Estimate,
    frechet_at_infinity,
    frechet_distance,
    frechet_standard_error,
    kernel_distance,
)
from thermograd.metrics.features import FeatureExtractor, extract_features
from thermograd.streams import stream, stream_seed


@dataclass(frozen=True)
class Reference:
    """Real images to compare with.

    Attributes:
        name: data set and split, e.g. "mnist:test".
        images: uint8, (N, H, W, C).
    """

    name: str
    images: np.ndarray

    @cached_property
    def fingerprint(self) -> str:
        """Sha256 of the images' bytes."""
        return hashlib.sha256(np.ascontiguousarray(self.images).data).hexdigest()


@dataclass(frozen=True)
class DistanceRecord:
    """One distance and everything that it depends on.

    Attributes:
        name: what to call it: "fd-..." (Fréchet), "fd-infinity-..." or "kd-..." with the extractor's name;
            "FID", "FID-infinity", "KID" only for the true Inception.
        distance: "frechet", "frechet-at-infinity" or "kernel".
        value: the distance; that to infinity and the kernel distance may be below 0.
        standard_error: over draws of both sets.
        extractor: name of the feature network.
        weights_hash: sha256 of its weights.
        resize_rule: how images were resized for it.
        grey_conversion: what was done to grey images.
        reference: data set and split.
        num_reference: reference images used.
        num_fake: images scored.
        seed: of subsets and groups.
        epoch: of the scored model, if there is one.
        step: of the scored model, if there is one.
        is_floor: whether the "fake" images are the other half of the reference.
    """

    name: str
    distance: str
    value: float
    standard_error: float
    extractor: str
    weights_hash: str
    resize_rule: str
    grey_conversion: str
    reference: str
    num_reference: int
    num_fake: int
    seed: int
    epoch: int | None = None
    step: int | None = None
    is_floor: bool = False


def score_images(
    images: np.ndarray | Iterable[Tensor],
    reference: Reference,
    extractor: FeatureExtractor,
    *,
    seed: int,
    variant: Variant = "full",
    epoch: int | None = None,
    step: int | None = None,
    cache_folder: Path | None = None,
) -> list[DistanceRecord]:
    """Return the distances of `images` to a reference set.

    The quick variant takes 1,000 images (a seeded draw of an array, the first of batches) and a seeded draw of 1,000 of
    the reference. The full one takes all. A distance that the counts do not allow is not returned;
    `thermograd.metrics.counts.left_out` says which and how many images it needs.

    Args:
        images: uint8 array (N, H, W, C), or batches (B, C, H, W) of uint8 or of floats in [-1, 1].
        reference: real images.
        extractor: the feature network.
        seed: of the draws of subsets and groups.
        variant: "quick" or "full".
        epoch: of the model, for the record.
        step: of the model, for the record.
        cache_folder: where features of the reference are kept; None means the user's cache.

    Raises:
        InputError: for images of another size or number of channels, or none.
    """
    _check_variant(variant)
    if variant == "quick":
        images = _some(images, QUICK_COUNT, seed)
    batches = images if isinstance(images, np.ndarray) else _checked_batches(images, reference)
    if isinstance(batches, np.ndarray) and batches.shape[1:] != reference.images.shape[1:]:
        raise InputError(
            f"`images` must be {reference.images.shape[1:]} as {reference.name} is, got {batches.shape[1:]}."
        )
    real = reference_features(reference, extractor, seed=seed, variant=variant, cache_folder=cache_folder)
    template = _template(reference, extractor, seed)
    template = replace(template, epoch=epoch, step=step)
    return _distances(real, extract_features(batches, extractor), template, variant)


def floor(
    reference: Reference,
    extractor: FeatureExtractor,
    *,
    seed: int,
    variant: Variant = "full",
    cache_folder: Path | None = None,
) -> list[DistanceRecord]:
    """Return the distances between two disjoint, randomly drawn halves of the reference.

    In the quick variant each half is at most 1,000 images. Arguments and errors as for `score_images`.
    """
    _check_variant(variant)
    features = reference_features(reference, extractor, seed=seed, variant="full", cache_folder=cache_folder)
    order = torch.randperm(len(features), generator=stream(seed, "floor-halves"))
    half = len(features) // 2
    count = min(half, QUICK_COUNT) if variant == "quick" else half
    first, second = features[order[:count]], features[order[half : half + count]]
    return _distances(first, second, replace(_template(reference, extractor, seed), is_floor=True), variant)


def reference_features(
    reference: Reference,
    extractor: FeatureExtractor,
    *,
    seed: int,
    variant: Variant = "full",
    cache_folder: Path | None = None,
) -> Tensor:
    """Return the features (N, F) of the reference, from the cache where they are known.

    The key hashes the reference's name and bytes, the extractor's name and weights, the resize rule, the
    conversion of grey images, and for the quick variant the seed of its 1,000 images.
    """
    images = reference.images
    fields: dict[str, object] = {"reference": reference.name, "fingerprint": reference.fingerprint}
    fields |= {
        "extractor": extractor.name,
        "weights": extractor.weights_hash,
        "resize": extractor.resize_rule,
    }
    fields |= {"grey": extractor.grey_conversion(images.shape[3]), "num_reference": len(images)}
    if variant == "quick" and len(images) > QUICK_COUNT:
        fields |= {"num_drawn": QUICK_COUNT, "seed": seed}
        images = _drawn(images, QUICK_COUNT, seed, "quick-reference")
    folder = user_cache() if cache_folder is None else cache_folder
    path = folder / "features" / f"{hash_fields(fields)}.safetensors"
    cached = read_tensors(path, fields)
    if cached is not None:
        return cached["features"]
    features = extract_features(images, extractor)
    write_tensors(path, {"features": features}, fields)
    return features


def _distances(
    real: Tensor, fake: Tensor, template: DistanceRecord, variant: Variant
) -> list[DistanceRecord]:
    template = replace(template, num_reference=len(real), num_fake=len(fake))
    seed, needed = template.seed, images_needed(real.shape[1], variant)
    possible = {distance for distance, least in needed.items() if min(len(real), len(fake)) >= least}
    found: list[tuple[str, Estimate]] = []
    if "kernel" in possible:
        found.append(("kernel", kernel_distance(real, fake, seed=seed)))
    if "frechet" in possible:
        error = frechet_standard_error(real, fake, seed=seed)
        found.append(("frechet", Estimate(frechet_distance(real, fake), error)))
    if "frechet-at-infinity" in possible:
        found.append(("frechet-at-infinity", frechet_at_infinity(real, fake, seed=seed)))
    return [
        replace(
            template,
            name=distance_name(distance, template.extractor),
            distance=distance,
            value=estimate.value,
            standard_error=estimate.standard_error,
        )
        for distance, estimate in found
    ]


def _template(reference: Reference, extractor: FeatureExtractor, seed: int) -> DistanceRecord:
    """Return a record without its values."""
    return DistanceRecord(
        name="",
        distance="",
        value=float("nan"),
        standard_error=float("nan"),
        extractor=extractor.name,
        weights_hash=extractor.weights_hash,
        resize_rule=extractor.resize_rule,
        grey_conversion=extractor.grey_conversion(reference.images.shape[3]),
        reference=reference.name,
        num_reference=0,
        num_fake=0,
        seed=seed,
    )


def _check_variant(variant: str) -> None:
    if variant not in ("quick", "full"):
        raise InputError(f"`variant` must be quick or full, got {variant}.")


def _some(images: np.ndarray | Iterable[Tensor], count: int, seed: int) -> np.ndarray | Iterable[Tensor]:
    """Return this many images: drawn from an array, whose beginning may be of one class; the first of a generator."""
    if isinstance(images, np.ndarray):
        return _drawn(images, count, seed, "quick-images")
    return _first_batches(images, count)


def _drawn(images: np.ndarray, count: int, seed: int, name: str) -> np.ndarray:
    if len(images) <= count:
        return images
    draw = np.random.default_rng(stream_seed(seed, name))
    return images[np.sort(draw.choice(len(images), count, replace=False))]


def _first_batches(batches: Iterable[Tensor], count: int) -> Iterable[Tensor]:
    for batch in batches:
        yield batch[:count]
        count -= len(batch)
        if count <= 0:
            return


def _checked_batches(batches: Iterable[Tensor], reference: Reference) -> Iterable[Tensor]:
    height, width, channels = reference.images.shape[1:]
    for batch in batches:
        if tuple(batch.shape[1:]) != (channels, height, width):
            raise InputError(
                f"`images` must be {(channels, height, width)} as {reference.name} is,"
                f" got {tuple(batch.shape[1:])}."
            )
        yield batch
