"""The user's own images in every form they come in: ranges, names, splits, classes, links, kinds of files."""

import gzip
import io
import shutil
import struct
import zipfile
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image
from tiny_data import CONTENT, as_multiset, random_images

from thermograd.data import load_user_images, sources
from thermograd.data.image_files import read_image_files
from thermograd.data.ranges import find_range, to_bytes
from thermograd.data.splits import role_of, split_of
from thermograd.errors import InputError

EVERY_BYTE = np.arange(256, dtype=np.uint8).reshape(4, 8, 8, 1)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    """Every test has an empty cache and sees no data set of this machine."""
    monkeypatch.setenv("THERMOGRAD_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("THERMOGRAD_DATA", raising=False)
    monkeypatch.setattr(sources, "SYSTEM_FOLDERS", ())


def save(path: Path, array: np.ndarray) -> Path:
    """Save images as any kind of array file."""
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".npz":
        np.savez(path, x=array)
    else:
        with h5py.File(path, "w") as file:
            file["x"] = array
    return path


def draw(path: Path, value: int = 0, size: int = 8) -> Path:
    """Save an image of a colour that is its own, grey."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size, size), value, np.uint8)).save(path)
    return path


def notes(path: Path) -> str:
    return " ".join(load_user_images(path).notes)


class TestRanges:
    @pytest.mark.parametrize("suffix", [".npy", ".npz", ".h5"])
    @pytest.mark.parametrize(("mean", "std"), [(0.4465, 0.2010), (0.1307, 0.3081), (0.5, 0.5)])
    @pytest.mark.parametrize("value_range", [(0, 1), (-1, 1), (0, 255)])
    def test_normalising_and_back_gives_every_byte(self, tmp_path, suffix, mean, std, value_range):
        low, high = value_range
        x = (EVERY_BYTE / np.float32(255) * (high - low) + low).astype(np.float32)
        x = (x - np.float32(mean)) / np.float32(std) * np.float32(std) + np.float32(mean)
        assert x.dtype == np.float32
        dataset = load_user_images(save(tmp_path / f"x{suffix}", x), "all")
        assert np.array_equal(dataset.images, EVERY_BYTE)
        assert dataset.value_range == value_range
        assert f"Values in [{low}, {high}] (float32)." in dataset.notes

    @pytest.mark.parametrize("dtype", [bool, np.uint8, np.int8, np.uint16, np.int64, np.float16])
    def test_black_and_white_of_any_type(self, tmp_path, dtype):
        x = np.random.default_rng(0).integers(0, 2, (20, 8, 8)).astype(dtype)
        dataset = load_user_images(save(tmp_path / "x.npy", x), "all")
        assert np.array_equal(dataset.images[..., 0], 255 * x.astype(np.uint8))
        assert dataset.value_range == (0, 1)

    @pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int64, np.float32, np.float64])
    def test_bytes_of_any_type(self, tmp_path, dtype):
        dataset = load_user_images(save(tmp_path / "x.npy", EVERY_BYTE.astype(dtype)), "all")
        assert np.array_equal(dataset.images, EVERY_BYTE)

    @pytest.mark.parametrize(
        ("low", "high", "told"),
        [
            (0, 16, r"\[0, 16\]"),
            (0, 1 / 255, r"\[0, 0.00392157\]"),
            (0, 65535, r"\[0, 65535\]"),
            (0, 100, r"\[0, 100\]"),
            (-128, 127, r"\[-128, 127\]"),
            (-0.4914, 0.5535, r"\[-0.4914, 0.5535\]"),
            (-0.4242, 2.8215, r"\[-0.4242, 2.8215\]"),
            (-2.4, 2.4, r"\[-2.4, 2.4\]"),
            (0, 256, r"\[0, 256\]"),
        ],
    )
    def test_odd_ranges_are_refused_until_named(self, tmp_path, low, high, told):
        x = EVERY_BYTE / 255 * (high - low) + low
        path = save(tmp_path / "x.npy", x)
        with pytest.raises(InputError, match=rf"none of the ranges .*`data\.range` {told}\."):
            load_user_images(path)
        dataset = load_user_images(path, "all", value_range=(low, high))
        assert np.array_equal(dataset.images, EVERY_BYTE)
        assert dataset.value_range == (low, high)

    def test_another_named_range_is_other_images(self, tmp_path):
        path = save(tmp_path / "x.npy", np.arange(32, dtype=np.uint8).reshape(8, 2, 2) % 17)
        first = load_user_images(path, "all", value_range=(0, 16)).images
        second = load_user_images(path, "all", value_range=(0, 255)).images
        assert (first.max(), second.max()) == (255, 16)
        with pytest.raises(InputError, match=r"`data\.range` must hold all values .*got \[0, 15\].* 16 "):
            load_user_images(path, value_range=(0, 15))

    def test_one_range_for_all_arrays_of_a_file(self, tmp_path):
        x = EVERY_BYTE / 127.5 - 1
        np.savez(tmp_path / "x.npz", x_train=x, x_test=x[2:])
        assert np.array_equal(load_user_images(tmp_path / "x.npz", "test").images, EVERY_BYTE[2:])

    def test_half_a_byte_is_the_tolerance(self, tmp_path):
        inside, outside = np.array([[0.0, 1 + 0.49 / 255]]), np.array([[0.0, 1 + 0.51 / 255]])
        assert find_range({"x": inside}, tmp_path, None) == (0, 1)
        assert to_bytes(inside, (0, 1)).tolist() == [[0, 255]]
        with pytest.raises(InputError, match="none of the ranges"):
            find_range({"x": outside}, tmp_path, None)

    def test_pixels_of_image_files_by_a_named_range(self, tmp_path):
        for i in range(4):
            draw(tmp_path / "mine" / f"{i}.png", i % 2)
        assert load_user_images(tmp_path / "mine", "all").images.max() == 1
        dataset = load_user_images(tmp_path / "mine", "all", value_range=(0, 1))
        assert sorted(dataset.images[:, 0, 0, 0].tolist()) == [0, 0, 255, 255]


class TestArrayNames:
    @pytest.mark.parametrize(
        ("name", "split", "role"),
        [
            ("x_train", "train", "images"),
            ("X_Test", "test", "images"),
            ("train_images", "train", "images"),
            ("val_labels", "val", "labels"),
            ("train/images", "train", "images"),
            ("test_set_y", "test", "labels"),
            ("images", None, "images"),
            ("targets", None, "labels"),
        ],
    )
    def test_names(self, name, split, role):
        assert role_of(name) == (split, role)

    @pytest.mark.parametrize("name", ["arr_0", "pixels", "train_test", "training_time", "meta"])
    def test_names_that_say_nothing(self, name):
        assert role_of(name) is None

    @pytest.mark.parametrize("suffix", [".npz", ".h5", ".HDF", ".weights"])
    @pytest.mark.parametrize("name", ["arr_0", "samples", "anything at all"])
    def test_one_array_of_any_name(self, tmp_path, suffix, name):
        images = random_images(30)
        path = tmp_path / f"x{suffix}"
        if suffix == ".npz":
            np.savez(path, **{name: images})
        else:
            with h5py.File(path, "w") as file:
                file[name] = images
        assert as_multiset(load_user_images(path, "all").images) == as_multiset(images)
        assert [len(load_user_images(path, split)) for split in ("train", "test")] == [27, 3]

    def test_images_and_labels_as_positions(self, tmp_path):
        np.savez(tmp_path / "x.npz", random_images(30), np.arange(30))
        assert load_user_images(tmp_path / "x.npz", "all").labels.tolist() == list(range(30))

    @pytest.mark.parametrize(
        "names", [("x_train", "x_val", "x_test"), ("train_images", "val_images", "test_images")]
    )
    def test_val_beside_test_is_left_out_and_scored_with_all(self, tmp_path, names):
        arrays = dict(zip(names, (random_images(9), random_images(4, seed=1), random_images(5, seed=2))))
        np.savez(tmp_path / "x.npz", **arrays, meta=np.array([{}], dtype=object))
        assert [len(load_user_images(tmp_path / "x.npz", s)) for s in ("train", "test", "all")] == [9, 5, 18]
        told = notes(tmp_path / "x.npz")
        assert "9 images to train, 5 to test; 4 of val are left out" in told
        assert "Arrays left out: meta." in told

    def test_val_without_test_is_test(self, tmp_path):
        np.savez(tmp_path / "x.npz", x_train=random_images(9), x_val=random_images(4, seed=1))
        assert len(load_user_images(tmp_path / "x.npz", "test")) == 4
        assert "4 to test (those of val)" in notes(tmp_path / "x.npz")

    def test_arrays_in_groups(self, tmp_path):
        with h5py.File(tmp_path / "x.h5", "w") as file:
            file["train/images"], file["test/images"] = random_images(6), random_images(3, seed=1)
            file["train/labels"] = np.arange(6)
        dataset = load_user_images(tmp_path / "x.h5")
        assert dataset.labels.tolist() == list(range(6))

    @pytest.mark.parametrize("name", ["images.idx3-ubyte", "images.idx3", "images", "images-idx3-ubyte.gz"])
    def test_idx_by_content(self, tmp_path, name):
        content = CONTENT["train-images-idx3-ubyte"]
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("z") else content)
        assert len(load_user_images(tmp_path / name, "all")) == 6


class TestSplitFolders:
    @pytest.mark.parametrize(
        ("name", "split"),
        [
            *(("train", "train"), ("Training", "train"), ("TRAIN_SET", "train"), ("train-images", "train")),
            *(("val", "val"), ("Valid", "val"), ("VALIDATION", "val")),
            *(("test", "test"), ("Testing", "test"), ("test set", "test")),
            *(("trainer", None), ("latest", None), ("train_labels", None), ("test_tube", None), ("7", None)),
        ],
    )
    def test_names(self, name, split):
        assert split_of(name) == split

    @pytest.mark.parametrize("names", [("train", "test"), ("training", "testing"), ("TRAIN", "Validation")])
    @pytest.mark.parametrize("inside", ["", "0", "a/b"])
    @pytest.mark.parametrize("above", ["", "mnist_png", "unpacked/archive"])
    def test_found(self, tmp_path, names, inside, above):
        for split, count in zip(names, (20, 7)):
            for i in range(count):
                draw(tmp_path / "mine" / above / split / inside / f"{i}.png", 3 * i)
        sizes = [len(load_user_images(tmp_path / "mine", split)) for split in ("train", "test", "all")]
        assert sizes == [20, 7, 27]
        assert "20 images to train, 7 to test" in notes(tmp_path / "mine")

    def test_three_parts_and_what_lies_beside_them(self, tmp_path):
        for name, count in (("train", 5), ("valid", 3), ("test", 2), ("extra", 4)):
            for i in range(count):
                draw(tmp_path / "mine" / name / f"{i}.png", i)
        (tmp_path / "mine" / "labels.csv").write_text("a")
        assert [len(load_user_images(tmp_path / "mine", split)) for split in ("train", "test", "all")] == [
            5,
            2,
            10,
        ]
        told = notes(tmp_path / "mine")
        assert "3 of val are left out" in told
        assert "1 .csv, 4 images outside test and train and valid" in told

    def test_an_empty_part_or_two_folders_for_one_are_errors(self, tmp_path):
        draw(tmp_path / "a" / "train" / "0.png")
        (tmp_path / "a" / "test").mkdir()
        (tmp_path / "a" / "test" / "x.heic").write_bytes(b"")
        with pytest.raises(InputError, match=r"a/test holds no images \(1 \.heic\)"):
            load_user_images(tmp_path / "a")
        for name in ("train", "training", "test"):
            draw(tmp_path / "b" / name / "0.png")
        with pytest.raises(InputError, match="one folder for train, got train and training"):
            load_user_images(tmp_path / "b")

    def test_a_class_called_train_is_a_class(self, tmp_path):
        for name in ("ship", "train", "truck"):
            for i in range(4):
                draw(tmp_path / name / f"{i}.png", 10 * i)
        dataset = load_user_images(tmp_path, "all")
        assert len(dataset) == 12
        assert "3 folders ship, train, truck" in notes(tmp_path)


class TestClassFolders:
    def test_labels_in_order_of_names_and_classes_in_turn(self, tmp_path):
        for part, count in (("train", 6), ("test", 3)):
            for label in range(11):
                for i in range(count if label else 2 * count):
                    draw(tmp_path / part / str(label) / f"{i}.png", 20 * label + i)
        train, test = (load_user_images(tmp_path, split) for split in ("train", "test"))
        for dataset in (train, test):
            assert np.array_equal(dataset.labels, np.minimum(dataset.images[:, 0, 0, 0] // 20, 10))
        # Any beginning holds the classes in their proportions, 2 to 1 for class 0.
        counts = np.bincount(train.labels[:24], minlength=11)
        assert counts.tolist() == [4] + [2] * 10

    def test_a_test_class_that_training_lacks_keeps_its_name(self, tmp_path):
        for place in ("train/a", "train/b", "test/b", "test/c"):
            draw(tmp_path / place / "0.png")
        assert load_user_images(tmp_path).labels.tolist() == [0, 1]
        assert load_user_images(tmp_path, "test").labels.tolist() == [1, 2]

    def test_no_labels_for_one_folder_or_loose_images(self, tmp_path):
        for i in range(4):
            draw(tmp_path / "a" / "0" / f"{i}.png", i)
            draw(tmp_path / "b" / str(i) / "0.png", i)
        draw(tmp_path / "b" / "loose.png", 9)
        assert load_user_images(tmp_path / "a").labels is None
        assert load_user_images(tmp_path / "b").labels is None


class TestLinks:
    def test_linked_folders_and_files_are_used(self, tmp_path):
        for i in range(5):
            draw(tmp_path / "store" / "cat" / f"{i}.png", 20 + i)
            draw(tmp_path / "mine" / "dog" / f"{i}.png", 120 + i)
        (tmp_path / "mine" / "cat").symlink_to(tmp_path / "store" / "cat")
        dataset = load_user_images(tmp_path / "mine", "all")
        assert len(dataset) == 10
        assert np.array_equal(dataset.labels, dataset.images[:, 0, 0, 0] // 100)
        flat = tmp_path / "flat"
        flat.mkdir()
        for i in range(5):
            (flat / f"link{i}.png").symlink_to(tmp_path / "store" / "cat" / f"{i}.png")
        assert len(load_user_images(flat, "all")) == 5

    def test_a_linked_split(self, tmp_path):
        for i in range(5):
            draw(tmp_path / "store" / f"{i}.png", i)
            draw(tmp_path / "mine" / "train" / f"{i}.png", 20 + i)
        (tmp_path / "mine" / "test").symlink_to(tmp_path / "store")
        (tmp_path / "mine" / "valid").symlink_to(tmp_path / "store")
        assert [len(load_user_images(tmp_path / "mine", split)) for split in ("train", "test")] == [5, 5]

    def test_loops_broken_links_and_doubles_are_told(self, tmp_path):
        for i in range(4):
            draw(tmp_path / "mine" / f"{i}.png", i)
        (tmp_path / "mine" / "again").symlink_to(tmp_path / "mine")
        (tmp_path / "mine" / "gone.png").symlink_to(tmp_path / "nowhere.png")
        (tmp_path / "mine" / "twice.png").symlink_to(tmp_path / "mine" / "0.png")
        assert len(load_user_images(tmp_path / "mine", "all")) == 4
        told = notes(tmp_path / "mine")
        assert "1 broken link, 1 link to a folder above it, 1 link to an image that is there already" in told


class TestKindsOfFiles:
    @pytest.mark.parametrize("suffix", ["png", "webp", "bmp", "tif", "tiff", "gif", "ppm", "PNG", "TIFF"])
    def test_lossless_kinds(self, tmp_path, suffix):
        pixels = random_images(4, size=8, channels=3)
        if suffix == "gif":  # of 256 colours
            pixels = pixels // 64 * 64
        (tmp_path / "mine").mkdir()
        for i, image in enumerate(pixels):
            options = {"lossless": True} if suffix == "webp" else {}
            Image.fromarray(image).save(tmp_path / "mine" / f"{i}.{suffix}", **options)
        assert np.array_equal(load_user_images(tmp_path / "mine", "all").images, pixels)

    def test_an_image_by_its_content(self, tmp_path):
        for i in range(3):
            file = draw(tmp_path / "mine" / f"{i}.png", i)
            file.rename(file.with_suffix(("", ".jpg", ".image")[i]))
        assert len(load_user_images(tmp_path / "mine", "all")) == 3

    def test_every_other_file_is_told(self, tmp_path):
        for i in range(4):
            draw(tmp_path / "mine" / f"{i}.png", i)
        for name in ("a.txt", "b.TXT", "c.heic", "README", ".hidden.png", "Thumbs.db"):
            (tmp_path / "mine" / name).write_text("no image")
        draw(tmp_path / "mine" / ".ipynb_checkpoints" / "0.png")
        draw(tmp_path / "mine" / "__MACOSX" / "0.png")
        assert len(load_user_images(tmp_path / "mine", "all")) == 4
        assert "Left out: 1 .heic, 2 .txt, 4 hidden, 1 without a suffix." in notes(tmp_path / "mine")

    @pytest.mark.parametrize("name", ["a.png", "a.tif"])
    def test_sixteen_bits_are_refused(self, tmp_path, name):
        (tmp_path / "mine").mkdir()
        Image.fromarray(np.full((8, 8), 511, np.uint16)).save(tmp_path / "mine" / name)
        with pytest.raises(InputError, match=r"8 bits per channel, but .*a\.\w+ has 16"):
            load_user_images(tmp_path / "mine")

    def test_sixteen_bits_of_colour_are_refused(self, tmp_path):
        """Pillow opens such a PNG as 8 bits; the header is that of a grey one with another colour type."""
        (tmp_path / "mine").mkdir()
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "mine" / "a.png")
        content = bytearray((tmp_path / "mine" / "a.png").read_bytes())
        content[24] = 16
        content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
        (tmp_path / "mine" / "a.png").write_bytes(content)
        with pytest.raises(InputError, match=r"8 bits per channel, but .*a\.png has 16"):
            load_user_images(tmp_path / "mine")

    @pytest.mark.parametrize("suffix", ["gif", "webp", "tiff", "png"])
    def test_several_frames_are_refused(self, tmp_path, suffix):
        (tmp_path / "mine").mkdir()
        frames = [Image.fromarray(image) for image in random_images(3, size=8, channels=3)]
        frames[0].save(tmp_path / "mine" / f"a.{suffix}", save_all=True, append_images=frames[1:])
        with pytest.raises(InputError, match=rf"must be single, but .*a\.{suffix} holds 3"):
            load_user_images(tmp_path / "mine")

    def test_notes_come_back_from_the_cache_and_change_with_the_folder(self, tmp_path):
        for i in range(4):
            draw(tmp_path / "mine" / f"{i}.png", i)
        (tmp_path / "mine" / "a.txt").write_text("no image")
        first = notes(tmp_path / "mine")
        assert notes(tmp_path / "mine") == first
        (tmp_path / "mine" / "b.txt").write_text("no image")
        assert "2 .txt" in notes(tmp_path / "mine")

    def test_a_name_that_is_no_unicode(self, tmp_path):
        folder = tmp_path / "mine"
        for i in range(4):
            draw(folder / f"{i}.png", i)
        shutil.move(folder / "0.png", str(folder).encode() + b"/\xff.png")
        assert len(load_user_images(folder, "all")) == 4


# --- files that are small and unpack to far too much ---


def _gzip_bomb(path: Path) -> None:
    path.write_bytes(gzip.compress(struct.pack(">4I", 0x803, 1200, 512, 512) + bytes(1200 * 512 * 512)))


def _npz_bomb(path: Path) -> None:
    np.savez_compressed(path, images=np.zeros((1200, 512, 512), np.uint8))


def _npz_that_lies(path: Path) -> None:
    head = io.BytesIO()
    form = {"shape": (400_000, 512, 512), "fortran_order": False, "descr": "|u1"}
    np.lib.format.write_array_header_1_0(head, form)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", head.getvalue() + bytes(100))


def _hdf5_of_nothing(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("images", (10**6, 512, 512), "u1", chunks=(1, 512, 512))


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("a.idx.gz", _gzip_bomb),
        ("a.npz", _npz_bomb),
        ("b.npz", _npz_that_lies),
        ("a.h5", _hdf5_of_nothing),
    ],
)
def test_a_small_file_that_unpacks_to_far_too_much_is_refused(name, make, tmp_path, monkeypatch):
    make(tmp_path / name)
    with pytest.raises(InputError, match=r"must unpack to at most 268,435,456 bytes, got [\d,]*\.$"):
        load_user_images(tmp_path / name)


@pytest.mark.parametrize(("side", "is_refused"), [(2048, False), (2049, True), (20000, True)])
def test_an_image_of_too_many_pixels_is_refused_before_it_is_unpacked(side, is_refused, tmp_path):
    for i in range(2):
        if side > 2049:  # past the limits of Pillow itself, and never unpacked
            head = b"IHDR" + struct.pack(">2I5B", side, side, 8, 0, 0, 0, 0)
            chunks = [head, b"IDAT" + zlib.compress(bytes(100)), b"IEND"]
            packed = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks]
            (tmp_path / f"{i}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(packed))
        else:
            Image.new("L", (side, side), i).save(tmp_path / f"{i}.png")
    if is_refused:
        with pytest.raises(InputError, match=r"must have at most 4,194,304 pixels, but .*\.png"):
            read_image_files([tmp_path / "0.png", tmp_path / "1.png"])
    else:
        assert read_image_files([tmp_path / "0.png"]).shape == (1, side, side, 1)
