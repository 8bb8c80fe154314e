"""A small classifier trained on the data set itself, as a feature network that knows these images.

Networks trained on photographs see little in digits. A classifier of the very classes is small (64 features,
so that 128 images are enough for a Fréchet distance), quick and needs no download. Its distances are reported
as `fd-classifier-<dataset>` and compare only with those of the same weights hash.
"""

import hashlib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from thermograd.errors import InputError
from thermograd.files import cache_folder as user_cache
from thermograd.metrics.cache import hash_fields, read_tensors, write_tensors
from thermograd.metrics.features import FeatureExtractor, extract_features
from thermograd.progress import steps
from thermograd.streams import stream, stream_seed

NUM_FEATURES = 64
# Part of the cache key: raise it with any change to the network or its training.
RECIPE = "conv32-conv64-conv64-linear64, Adam with one cycle to 4e-3, batches of 256, recipe 2"
BATCH_SIZE = 256
NUM_TO_STANDARDISE = 10_000
PEAK_LEARNING_RATE = 4e-3


class ClassifierFeatures(FeatureExtractor):
    """A small convolutional classifier; features are its last hidden layer, standardised.

    Each feature is the layer's output before the ReLU, less its mean, over its standard deviation on training
    images: where features are far above 1, a few images rule the cubic kernel of the kernel distance.

    Args:
        dataset: the name of the data set, for the reported name.
        num_channels: channels of its images.
        num_classes: number of classes.

    Attributes:
        test_accuracy: share of test images classified rightly, from 0 to 1; nan before training.
    """

    num_features = NUM_FEATURES
    resize_rule = "none"

    def __init__(self, dataset: str, num_channels: int, num_classes: int):
        super().__init__()
        self.name = f"classifier-{dataset}"
        self.num_channels = num_channels
        self.body = nn.Sequential(
            nn.Conv2d(num_channels, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(64, 64, 3, padding=1),
            nn.ReLU(),
            # A fixed grid keeps where things are, and any image size fits.
            nn.AdaptiveAvgPool2d(3),
            nn.Flatten(),
            nn.Linear(64 * 9, NUM_FEATURES),
        )
        self.head = nn.Linear(NUM_FEATURES, num_classes)
        self.mean = nn.Parameter(torch.zeros(NUM_FEATURES), requires_grad=False)
        self.scale = nn.Parameter(torch.ones(NUM_FEATURES), requires_grad=False)
        self.test_accuracy = float("nan")

    def features(self, images: Tensor) -> Tensor:
        """Return features (N, 64) of uint8 images (N, C, H, W)."""
        return (self.body(images / 127.5 - 1) - self.mean) / self.scale

    def logits(self, images: Tensor) -> Tensor:
        """Return class logits (N, num_classes) of uint8 images (N, C, H, W)."""
        return self.head(F.relu(self.body(images / 127.5 - 1)))


def classifier_features(
    dataset: str,
    train_images: np.ndarray,
    train_labels: np.ndarray,
    test_images: np.ndarray,
    test_labels: np.ndarray,
    *,
    seed: int = 0,
    num_steps: int = 300,
    cache_folder: Path | None = None,
) -> ClassifierFeatures:
    """Return the classifier of a data set: from the cache, or else trained now and kept there.

    Training is a function of the arguments alone (on one machine, at one number of threads); all of them are in the
    cache's key.

    Args:
        dataset: name of the data set, e.g. "mnist".
        train_images: uint8, (N, H, W, C).
        train_labels: integers (N,) of any values; a class of the test set that training lacks is never right.
        test_images: as `train_images`; for `test_accuracy` alone.
        test_labels: as `train_labels`.
        seed: of the first weights and the order of images.
        num_steps: batches of 256.
        cache_folder: None means the user's cache.

    Raises:
        InputError: for arrays that do not fit each other.
    """
    _check_labels(train_images, train_labels, "train")
    _check_labels(test_images, test_labels, "test")
    if num_steps < 1:
        raise InputError(f"`num_steps` must be positive, got {num_steps}.")
    classes = np.unique(np.concatenate([train_labels, test_labels]))
    num_classes = len(classes)
    train_labels, test_labels = (np.searchsorted(classes, labels) for labels in (train_labels, test_labels))
    # Torch draws first weights from its global stream, which is not ours to move; `_train` draws its own.
    with torch.random.fork_rng(devices=[]):
        network = ClassifierFeatures(dataset, train_images.shape[3], num_classes)
    arrays = {"train": train_images, "y_train": train_labels, "test": test_images, "y_test": test_labels}
    fields: dict[str, object] = {name: f"{array.shape} {_sha256(array)}" for name, array in arrays.items()}
    fields |= {"dataset": dataset, "seed": seed, "num_steps": num_steps, "recipe": RECIPE}
    folder = user_cache() if cache_folder is None else cache_folder
    path = folder / "classifiers" / f"{hash_fields(fields)}.safetensors"
    state = read_tensors(path, fields)
    if state is None:
        _train(network, train_images, train_labels, seed, num_steps)
        network.test_accuracy = _accuracy(network, test_images, test_labels)
        accuracy = torch.tensor(network.test_accuracy, dtype=torch.float64)
        write_tensors(path, network.state_dict() | {"test_accuracy": accuracy}, fields)
    else:
        network.test_accuracy = float(state.pop("test_accuracy"))
        network.load_state_dict(state)
    return network.requires_grad_(False).eval()


def _sha256(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


def _check_labels(images: np.ndarray, labels: np.ndarray, split: str) -> None:
    if images.ndim != 4 or images.dtype != np.uint8 or len(images) == 0:
        raise InputError(
            f"`{split}_images` must be uint8 of shape (N, H, W, C), got {images.dtype} of {images.shape}."
        )
    if labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer):
        raise InputError(
            f"`{split}_labels` must be {len(images)} integers, got {labels.dtype} of shape {labels.shape}."
        )


def _train(
    network: ClassifierFeatures, images: np.ndarray, labels: np.ndarray, seed: int, num_steps: int
) -> None:
    for i, layer in enumerate(network.modules()):
        if isinstance(layer, nn.Conv2d | nn.Linear):
            generator = stream(seed, "classifier-init", i)
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    order = np.random.default_rng(stream_seed(seed, "classifier-order"))
    optimiser = torch.optim.Adam(network.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, PEAK_LEARNING_RATE, total_steps=num_steps + 1)
    for _ in steps(range(num_steps), "steps of the classifier"):
        picked = np.sort(order.choice(len(images), min(BATCH_SIZE, len(images)), replace=False))
        x = torch.from_numpy(images[picked]).permute(0, 3, 1, 2)
        loss = F.cross_entropy(network.logits(x), torch.from_numpy(labels[picked].astype(np.int64)))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    raw = extract_features(images[:NUM_TO_STANDARDISE], network)
    network.mean.copy_(raw.mean(0))
    # The small number keeps a feature that is constant at 0.
    network.scale.copy_((raw.var(0, correction=min(1, len(raw) - 1)) + 1e-6).sqrt())


def _accuracy(network: ClassifierFeatures, images: np.ndarray, labels: np.ndarray) -> float:
    correct = 0
    with torch.inference_mode():
        for start in range(0, len(images), 1024):
            x = torch.from_numpy(np.array(images[start : start + 1024])).permute(0, 3, 1, 2)
            correct += int((network.logits(x).argmax(1).numpy() == labels[start : start + 1024]).sum())
    return correct / len(images)
