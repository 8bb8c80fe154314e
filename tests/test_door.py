"""The door: `import thermograd as tg` offers names that exist, are documented, and whose examples run."""

import doctest
import inspect
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import thermograd as tg

PARTS = [name for name in tg.__all__ if not inspect.ismodule(getattr(tg, name)) and name != "__version__"]


@pytest.mark.parametrize("name", tg.__all__)
def test_every_name_is_there(name: str):
    assert getattr(tg, name) is getattr(tg, name)
    assert name in dir(tg)


@pytest.mark.parametrize("name", PARTS)
def test_every_name_has_an_example_that_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    thing = getattr(tg, name)
    examples = doctest.DocTestFinder(recurse=False).find(
        thing, name, module=False, globs={"tg": tg, "torch": torch}
    )
    examples = [each for each in examples if each.examples]
    assert examples, f"tg.{name} has no example"
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    said: list[str] = []
    for example in examples:
        doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example, out=said.append)
    assert not said, "".join(said)


def test_a_name_that_is_not_there_is_refused():
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        tg.trian  # noqa: B018


def test_no_room_bears_the_name_of_a_function():
    rooms = {path.stem for path in Path(tg.__file__).parent.iterdir()}
    assert not {name for name in PARTS if callable(getattr(tg, name))} & rooms


def test_public_functions_have_at_most_ten_parameters():
    def count(function: Any) -> int:
        kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
        return sum(p.kind not in kinds for p in inspect.signature(function).parameters.values())

    assert {name: count(getattr(tg, name)) for name in PARTS if inspect.isfunction(getattr(tg, name))}
    assert not [
        name for name in PARTS if inspect.isfunction(getattr(tg, name)) and count(getattr(tg, name)) > 10
    ]


def seconds(code: str) -> float:
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - begun


def test_importing_the_package_is_free_of_torch_and_quick():
    code = "import sys, thermograd as tg; assert 'torch' not in sys.modules; assert 'numpy' not in sys.modules; dir(tg)"
    subprocess.run([sys.executable, "-c", code], check=True)
    extra = min(seconds("import thermograd") for _ in range(5)) - min(seconds("pass") for _ in range(5))
    assert extra < 0.05
