"""Imports of torchmetrics and torch-fidelity that do not need a working torchvision.

Once torch-fidelity is installed, torchmetrics imports three of its files, and with them runs
`torch_fidelity/__init__.py`, which imports torchvision. A torchvision that does not match torch fails to
load, and takes the distances with it. The three files themselves use torch alone, so they are imported here
without running the package's `__init__`.
"""

import importlib
import importlib.util
import sys
from types import ModuleType

from thermograd.errors import RunError


def import_without_init(module_name: str, package: str) -> ModuleType:
    """Import `module_name`, while `package` can be imported from but its `__init__` does not run.

    Args:
        module_name: what to import: a submodule of `package`, or a module that imports one.
        package: the package whose `__init__` must not run. Nothing special happens where it is missing or in
            use.

    Raises:
        ImportError: if the module itself is missing.
    """
    if package in sys.modules or importlib.util.find_spec(package) is None:
        return importlib.import_module(module_name)
    spec = importlib.util.find_spec(package)
    bare = ModuleType(package)
    bare.__path__ = list(spec.submodule_search_locations or []) if spec else []
    sys.modules[package] = bare
    try:
        return importlib.import_module(module_name)
    finally:
        # A later import of the package must get the whole of it.
        for name in [n for n in sys.modules if n == package or n.startswith(package + ".")]:
            del sys.modules[name]


def torchmetrics_image(module: str) -> ModuleType:
    """Import `torchmetrics.image.<module>`.

    Raises:
        RunError: where torchmetrics does not load, most often because an unfit torchvision is installed.
    """
    try:
        return import_without_init(f"torchmetrics.image.{module}", "torch_fidelity")
    except (ImportError, RuntimeError) as error:
        raise RunError(
            f"torchmetrics does not load ({error}); if torchvision is installed, uninstall it or install the"
            " build that matches your torch."
        ) from error
