"""Check that a version is the package's, the changelog's and the citation's, and print its section of the changelog."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def section(version: str, root: Path = ROOT) -> str:
    """Return the changelog's section of a version.

    Raises:
        SystemExit: the package, the changelog or the citation has another version.
    """
    package = re.search(r'__version__ = "(.+)"', (root / "src" / "thermograd" / "version.py").read_text())
    citation = re.search(r"^version: (\S+)$", (root / "CITATION.cff").read_text(), re.MULTILINE)
    for place, found in (("src/thermograd/version.py", package), ("CITATION.cff", citation)):
        if found is None or found[1].strip('"') != version:
            sys.exit(f"{place} has version {found and found[1]}, not {version}.")
    parts = re.split(r"^## (.+)$", (root / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    for title, text in zip(parts[1::2], parts[2::2], strict=True):
        if title.split()[0].strip("[]") == version:
            return text.strip()
    sys.exit(f"CHANGELOG.md has no section {version}.")


if __name__ == "__main__":
    print(section(sys.argv[1]))
