"""An HDF5 file is read for what it holds itself: no link is followed, and no other file is read."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from thermograd.data import load_user_images
from thermograd.errors import InputError


def external_data(folder: Path, file: h5py.File) -> None:
    (folder / "raw.bin").write_bytes(bytes(256))
    file.create_dataset("x", (4, 8, 8), "u1", external=[(str(folder / "raw.bin"), 0, 256)])


def external_link(folder: Path, file: h5py.File) -> None:
    with h5py.File(folder / "other.h5", "w") as other:
        other["x"] = np.zeros((4, 8, 8), "u1")
    file["x"] = h5py.ExternalLink("other.h5", "/x")


def virtual_data(folder: Path, file: h5py.File) -> None:
    with h5py.File(folder / "other.h5", "w") as other:
        other["x"] = np.zeros((4, 8, 8), "u1")
    layout = h5py.VirtualLayout((4, 8, 8), "u1")
    layout[:] = h5py.VirtualSource(folder / "other.h5", "x", (4, 8, 8))
    file.create_virtual_dataset("x", layout)


def soft_link(folder: Path, file: h5py.File) -> None:
    file["there"] = np.zeros((4, 8, 8), "u1")
    file["x"] = h5py.SoftLink("/there")


def soft_link_in_a_group(folder: Path, file: h5py.File) -> None:
    file["x"] = np.zeros((4, 8, 8), "u1")
    file["more/y"] = h5py.SoftLink("/x")


def loop(folder: Path, file: h5py.File) -> None:
    file["x"] = h5py.SoftLink("/x")


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (external_data, "x takes its data from other files, which are not read"),
        (virtual_data, "x takes its data from other files, which are not read"),
        (external_link, "x is a link, which is not followed"),
        (soft_link, "x is a link, which is not followed"),
        (soft_link_in_a_group, "more/y is a link, which is not followed"),
        (loop, "x is a link, which is not followed"),
    ],
)
def test_what_reads_elsewhere_is_refused(
    make: Callable[[Path, h5py.File], None], problem: str, tmp_path: Path
):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        make(tmp_path, file)
    with pytest.raises(InputError, match=rf"^`data` file {tmp_path}/a.h5: {problem}\.$"):
        load_user_images(tmp_path / "a.h5")
