"""Docstrings as this package writes them, for Sphinx: blocks stand as they are, | and * are text, references a list."""

from typing import Any

from sphinx.application import Sphinx

SECTIONS = ("Args:", "Attributes:", "Returns:", "Raises:", "References:", "Example:")


def prepare(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Mark indented blocks of the description as literal, list references, and escape what would be markup in words."""
    prepared: list[str] = []
    section, literal = "", False
    for i, line in enumerate(lines):
        if line.strip() in SECTIONS and not line.startswith(" "):
            section, literal = line.strip(), False
        indented = line.startswith("    ")
        if not section and indented and not literal and i and not lines[i - 1].strip():
            prepared += ["::", ""]
            literal = True
        elif line.strip() and not indented:
            literal = False
        if section == "References:" and indented:
            line = f"    - {line.strip()}" if line[4] != " " else f"      {line.strip()}"
        is_text = not literal and section != "Example:"
        prepared.append(line.replace("|", "\\|").replace("*", "\\*") if is_text else line)
    lines[:] = prepared


def setup(app: Sphinx) -> dict[str, Any]:
    """Run before napoleon reads the sections."""
    app.connect("autodoc-process-docstring", prepare, priority=400)
    return {"parallel_read_safe": True}
