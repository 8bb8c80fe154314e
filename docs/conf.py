"""The documentation site: `make docs` builds it from the repository's own files, without network.

The source folder is the repository, so CONTRIBUTING, docs/ and notebooks/ are read where they lie, and their
links work on GitHub and on the site alike.
"""

import sys
from pathlib import Path

from thermograd import __version__

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "thermograd"
copyright = author = "The thermograd developers"
release = version = __version__
root_doc = "docs/index"
include_patterns = ["docs/**", "notebooks/*", "CONTRIBUTING.md", "CHANGELOG.md"]
exclude_patterns = [".*", "runs", "src", "tests", "docs/_*"]

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "docstrings", "mathml"]
html_math_renderer = "mathml"
html_theme = "furo"
html_title = f"thermograd {release}"
html_static_path = ["_site/static"]
html_css_files = ["site.css"]
html_extra_path = ["_site/top"]
html_copy_source = False

myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "attrs_inline"]
myst_heading_anchors = 4
nb_execution_mode = "off"  # notebooks are shown with the outputs that are committed

nitpicky = True
# Types without a page: those of other packages, of settings, which have a table, and of inner workings.
INNER = (
    r"thermograd\.(config|evaluation\.settings|runs\.metrics|training\.(chains|trainer)"
    r"|gradients\.(moments|variance\.RungVariance))\b.*"
)
nitpick_ignore_regex = [(r"py:.*", r"(?!thermograd\b).*"), (r"py:class", INNER)]
default_role = "code"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
