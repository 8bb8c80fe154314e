"""The door: `import thermograd as tg` offers names that exist, are documented, and whose examples run."""

import doctest
import inspect
import resource
import subprocess
import sys
from pathlib import Path

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


def seconds(code: str) -> float:
    """Return the processor time of a new interpreter, which other processes on this machine hardly change."""
    begun = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True)
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ended.ru_utime + ended.ru_stime - begun.ru_utime - begun.ru_stime


def test_importing_the_package_is_free_of_torch_and_quick():
    code = "import sys, thermograd as tg; assert 'torch' not in sys.modules; assert 'numpy' not in sys.modules; dir(tg)"
    subprocess.run([sys.executable, "-c", code], check=True)
    pairs = [(seconds("import thermograd"), seconds("pass")) for _ in range(5)]
    loaded, bare = map(min, zip(*pairs, strict=True))
    assert loaded - bare < 0.05
