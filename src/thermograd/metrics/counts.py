"""How many images each distance needs, and what is left out where there are fewer.

For features of length F, on both sides: 20 images for the kernel distance (two per group of its jackknife), 2 F for the
Fréchet distance, and 4 F for its extrapolation, since that needs two parts of 2 F each.
"""

from typing import Literal

from thermograd.metrics.distance import NUM_GROUPS

QUICK_COUNT = 1000
"""Images of each set that the quick variant uses."""

Variant = Literal["quick", "full"]


def images_needed(num_features: int, variant: Variant) -> dict[str, int]:
    """Return the images that each distance of a variant needs on both sides.

    The quick variant has a distance where its 1,000 images suffice, and never the extrapolation.

    Args:
        num_features: F, the length of a feature vector.
        variant: "quick" or "full".

    Returns:
        By distance, "kernel", "frechet" and "frechet-at-infinity", least first.
    """
    needed = {"kernel": 2 * NUM_GROUPS, "frechet": 2 * num_features, "frechet-at-infinity": 4 * num_features}
    if variant == "full":
        return needed
    return {
        name: count
        for name, count in needed.items()
        if name != "frechet-at-infinity" and count <= QUICK_COUNT
    }


def images_used(num_reference: int, num_scored: int, variant: Variant) -> tuple[int, int]:
    """Return the reference images and the scored images that a variant uses of those there are."""
    most = QUICK_COUNT if variant == "quick" else max(num_reference, num_scored)
    return min(num_reference, most), min(num_scored, most)


def too_few(
    extractor: str, num_features: int, reference: str, num_reference: int, num_scored: int, variant: Variant
) -> dict[str, str]:
    """Return a line for each distance, by its name, that the counts do not allow.

    Args:
        extractor: name of the feature network.
        num_features: F, the length of its feature vectors.
        reference: data set and split, e.g. "mnist:test".
        num_reference: reference images there are.
        num_scored: images that are scored against them.
        variant: "quick" or "full".
    """
    real, scored = images_used(num_reference, num_scored, variant)
    return {
        name: f"{name} needs {needed} images on both sides, got {real} of {reference} and {scored} scored."
        for distance, needed in images_needed(num_features, variant).items()
        for name in [distance_name(distance, extractor)]
        if min(real, scored) < needed
    }


def left_out(
    extractor: str, num_features: int, reference: str, num_reference: int, num_scored: int, variant: Variant
) -> list[str]:
    """Return a line for each distance, and each floor, that the counts do not allow; arguments as for `too_few`."""
    lines = too_few(extractor, num_features, reference, num_reference, num_scored, variant)
    floors = [
        f"the floor of {distance_name(distance, extractor)} needs {2 * needed} images of {reference}, "
        f"got {num_reference}."
        for distance, needed in images_needed(num_features, variant).items()
        if num_reference // 2 < needed <= num_reference
    ]
    return [*lines.values(), *floors]


def distance_name(distance: str, extractor: str) -> str:
    """Return what a distance is called: "FID" and its kin only with the true Inception."""
    if extractor == "inception-v3-2015-12-05":
        return {"frechet": "FID", "frechet-at-infinity": "FID-infinity", "kernel": "KID"}[distance]
    return {"frechet": "fd-", "frechet-at-infinity": "fd-infinity-", "kernel": "kd-"}[distance] + extractor
