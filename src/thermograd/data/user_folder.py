"""What lies in the user's folder of images: every file is used, or counted among those left out."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from thermograd.data.cache import file_sha256
from thermograd.data.image_files import is_image, read_image_files
from thermograd.data.ranges import BYTES, Range, find_range, text_of, to_bytes
from thermograd.data.splits import Source, is_split, split_of
from thermograd.errors import InputError


@dataclass
class _Scan:
    """The images below a folder, and why other files are left out."""

    images: list[Path] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    seen: set[Path] = field(default_factory=set)


@dataclass(frozen=True)
class Folder:
    """A folder of images, listed and not read.

    Attributes:
        path: the folder.
        base: the folder in it that holds the parts or classes: `path`, or below it where each holds one folder alone.
        parts: image files by part, in the order of the data set: by path, or classes in turn.
        classes: names of the class folders, sorted; empty where there are none.
        notes: a line each on classes and on what is left out.
    """

    path: Path
    base: Path
    parts: dict[str, list[Path]]
    classes: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def hashes(self) -> list[str]:
        """What identifies the content; names are in it, since they decide order, parts and classes."""
        lines = [
            f"{part}:{file.relative_to(self.path).as_posix()}:{file_sha256(file)}"
            for part, files in self.parts.items()
            for file in files
        ]
        return [*lines, *self.notes]

    def read(self, value_range: Range | None = None) -> Source:
        """Read the images.

        Args:
            value_range: the pixels that are black and white where the files do not use all of 0 to 255.

        Raises:
            InputError: a file is damaged, of an unsupported kind, or unlike the first.
        """
        images, notes = (
            read_image_files([file for files in self.parts.values() for file in files]),
            self.notes,
        )
        if value_range is not None:
            find_range({"pixels": images}, self.path, value_range)
            images, notes = to_bytes(images, value_range), (f"Pixels in {text_of(value_range)}.", *notes)
        parts, first = {}, 0
        for part, files in self.parts.items():
            parts[part] = images[first : first + len(files)], self._labels(part)
            first += len(files)
        return Source(parts, value_range or BYTES, notes)

    def _labels(self, part: str) -> np.ndarray | None:
        if not self.classes:
            return None
        root = _root(self.base, self.parts[part][0], part)
        return np.array([self.classes.index(_class(file, root)) for file in self.parts[part]])


def list_folder(path: Path) -> Folder:
    """List the images of a folder with the split and the classes that its folders tell.

    Raises:
        InputError: no images, a split with an empty part or with two folders for one part, or a folder that cannot
            be read.
    """
    base = _base(path)
    split = _split_folders(base)
    scans = {part: _Scan() for part in split} or {"all": _Scan()}
    others = _Scan()
    for entry in _entries(base):
        part = next((part for part, folder in split.items() if folder == entry), None)
        _visit(entry, {base.resolve()}, scans[part] if part else others if split else scans["all"])
    left_out = sum((scan.left_out for scan in (*scans.values(), others)), Counter())
    left_out += Counter(
        {f"images outside {' and '.join(folder.name for folder in split.values())}": len(others.images)}
    )
    for part, scan in scans.items():
        if not scan.images:
            found = f" ({_counts(left_out)})" if left_out else ""
            raise InputError(f"`data` folder {split.get(part, path)} holds no images{found}.")
    parts = {part: sorted(scan.images, key=Path.as_posix) for part, scan in scans.items()}
    classes = _classes(base, parts)
    if classes:
        parts = {part: _in_turn(files, _root(base, files[0], part)) for part, files in parts.items()}
    notes = [f"Labels are the {len(classes)} folders {_some(classes)}."] if classes else []
    if left_out:
        notes.append(f"Left out: {_counts(left_out)}.")
    return Folder(path, base, parts, classes, tuple(notes))


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir(), key=Path.as_posix)
    except OSError as error:
        raise InputError(f"`data` folder {folder} cannot be read: {error.strerror or error}.") from error


def _is_hidden(path: Path) -> bool:
    return path.name.startswith(".") or path.name in ("__MACOSX", "Thumbs.db", "desktop.ini")


def _base(path: Path) -> Path:
    """Go down while a folder holds one folder and no image, as an unpacked archive does."""
    seen: set[Path] = set()
    while path.resolve() not in seen:
        seen.add(path.resolve())
        visible = [entry for entry in _entries(path) if not _is_hidden(entry)]
        folders = [entry for entry in visible if entry.is_dir()]
        if len(folders) != 1 or any(entry.is_file() and is_image(entry) for entry in visible):
            break
        path = folders[0]
    return path


def _split_folders(base: Path) -> dict[str, Path]:
    """Return the folder of each part, or nothing where the folders do not make a split."""
    found: dict[str, Path] = {}
    for entry in _entries(base):
        part = split_of(entry.name) if entry.is_dir() else None
        if part is None:
            continue
        if part in found:
            raise InputError(
                f"`data` folder {base} must have one folder for {part}, got {found[part].name} and {entry.name}."
            )
        found[part] = entry
    return found if is_split(found) else {}


def _visit(path: Path, above: set[Path], scan: _Scan) -> None:
    """Add a file, or all that is below a folder, to a scan; links are followed, each file is taken once."""
    if _is_hidden(path):
        scan.left_out["hidden"] += 1
    elif path.is_dir():
        whole = path.resolve()
        if whole in above:
            scan.left_out["link to a folder above it"] += 1
            return
        for entry in _entries(path):
            _visit(entry, above | {whole}, scan)
    elif not path.is_file():
        scan.left_out["broken link" if path.is_symlink() else "special file"] += 1
    elif not is_image(path):
        scan.left_out[path.suffix.lower() or "without a suffix"] += 1
    elif path.resolve() in scan.seen:
        scan.left_out["link to an image that is there already"] += 1
    else:
        scan.seen.add(path.resolve())
        scan.images.append(path)


def _root(base: Path, file: Path, part: str) -> Path:
    """Return the folder of a part, in which its class folders lie."""
    return base if part == "all" else base / file.relative_to(base).parts[0]


def _class(file: Path, root: Path) -> str:
    """Return the folder that a file lies in below the root of its part, or "" for none."""
    first, *rest = file.relative_to(root).parts
    return first if rest else ""


def _classes(base: Path, parts: dict[str, list[Path]]) -> tuple[str, ...]:
    """Return the class folders: there are two or more, and every image lies in one."""
    names = {_class(file, _root(base, file, part)) for part, files in parts.items() for file in files}
    if "" in names or len(names) < 2:
        return ()
    return tuple(sorted(names, key=lambda name: (int(name) if name.isdecimal() else -1, name)))


def _in_turn(files: list[Path], root: Path) -> list[Path]:
    """Order files so that the first N of any N hold the classes in their proportions."""
    sizes = Counter(_class(file, root) for file in files)
    ranks: Counter[str] = Counter()
    places = {}
    for file in files:
        name = _class(file, root)
        places[file] = ((ranks[name] + 0.5) / sizes[name], name)
        ranks[name] += 1
    return sorted(files, key=lambda file: places[file])


def _counts(left_out: Counter[str]) -> str:
    return ", ".join(f"{count} {why}" for why, count in sorted(left_out.items()))


def _some(names: Iterable[str], most: int = 10) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
