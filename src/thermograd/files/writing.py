"""Files that are whole or absent: written aside under a name of their own, synced, renamed.

A crash or a power cut leaves the old file or the new one, and at most a leftover that `remove_leftovers` knows.
"""

import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_ASIDE = ".writing_"
_LONGEST_NAME = 200


@contextmanager
def written_whole(file: Path) -> Iterator[Path]:
    """Yield a path to write to; it becomes `file`, whole and on the disk, or it is removed.

    Its folder is made where it is missing. Two processes that write the same file at once both succeed, and the file is
    that of the last.
    """
    make_folder(file.parent)
    # The name of the file comes last: libraries look at its suffix.
    aside = file.with_name(f"{_ASIDE}{secrets.token_hex(6)}_{file.name[-_LONGEST_NAME:]}")
    try:
        yield aside
        make_readable(aside)
        sync(aside)
        aside.replace(file)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    sync(file.parent)


def make_readable(path: Path) -> None:
    """Give a file or folder the mode that the user's umask says, whatever a library made it with."""
    umask = os.umask(0o077)  # which can only be read by setting it
    os.umask(umask)
    path.chmod((0o777 if path.is_dir() else 0o666) & ~umask)


def write_atomically(file: Path, content: str | bytes) -> None:
    """Write a small file whole or not at all; text as UTF-8."""
    with written_whole(file) as aside:
        aside.write_bytes(content.encode() if isinstance(content, str) else content)


def make_folder(folder: Path) -> None:
    """Make a folder where it is missing, and wait until its name is on the disk."""
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        sync(folder.parent)


def append_line(file: Path, line: str) -> None:
    """Add a line to a file, after ending one that a crash cut short, and wait until it is on the disk."""
    with file.open("ab+") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - 1))
        torn = size and stream.read(1) != b"\n"
        stream.write(b"\n" * bool(torn) + line.encode() + b"\n")
        stream.flush()
        os.fsync(stream.fileno())
    if not size:
        sync(file.parent)


def sync(path: Path) -> None:
    """Wait until a file, or the list of names in a folder, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that does not sync folders
            raise
    finally:
        os.close(descriptor)


def begun_writing(folder: Path) -> list[Path]:
    """Return what processes that died while they wrote have left in a folder."""
    return sorted(folder.glob(f"{_ASIDE}*"))


def remove_leftovers(folder: Path) -> int:
    """Remove what processes that died while they wrote have left in a folder; return how many.

    Only for a process that holds the folder: another one may be writing.
    """
    leftovers = begun_writing(folder)
    for path in leftovers:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    return len(leftovers)


def hash_of(content: bytes) -> str:
    """Return the sha256 of bytes, in hex."""
    return hashlib.sha256(content).hexdigest()


def sha256(file: Path) -> str:
    """Return the sha256 of a file, in hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
