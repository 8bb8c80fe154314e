"""Opening a run: one writer, metrics tied to checkpoints, and a power cut at any file operation loses nothing."""

import errno
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from thermograd.config.schema import RunConfig
from thermograd.errors import InputError, RunError
from thermograd.files import LOCK, birth, hold, host_name
from thermograd.runs import checkpoint as checkpoint_module
from thermograd.runs import train as train_module
from thermograd.runs.checkpoint import list_checkpoints
from thermograd.runs.folder import read_status
from thermograd.runs.metrics import read_metrics
from thermograd.runs.opening import open_run
from thermograd.runs.train import train_run

MakeConfig = Callable[..., RunConfig]
OFTEN = {"training.checkpoint_every": 2, "training.log_every": 1, "training.num_epochs": 2}


def result(folder: Path) -> dict[str, Any]:
    """Return all that a finished run holds, less times and what a computer is called."""
    files: dict[str, Any] = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and path.name not in ("environment.json", "metrics.json", "metrics.jsonl", "status.json")
    }
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    files["records"] = [{**json.loads(line), "seconds": 0} for line in lines]
    files["last"] = (folder / "checkpoints" / "last").readlink()
    files["state"] = read_status(folder)["state"]
    return files


@pytest.fixture(autouse=True)
def no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the drawing that takes longer than all else."""
    monkeypatch.setattr(train_module, "save_curves", lambda *arguments: None)


# --- one writer ---

BEGIN = """
import sys, time
from pathlib import Path
from thermograd.files import hold
from thermograd.errors import InputError
print("ready", flush=True)
sys.stdin.readline()
try:
    with hold(Path(sys.argv[1]), "train", "out"):
        print("held", flush=True)
        sys.stdin.readline()
except InputError as error:
    print(error, flush=True)
"""


def test_of_ten_processes_that_begin_one_folder_nine_say_who_holds_it(tmp_path: Path):
    folder = tmp_path / "run"
    processes = [
        subprocess.Popen([sys.executable, "-c", BEGIN, str(folder)], stdin=-1, stdout=-1, text=True)
        for _ in range(10)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    said = {process.pid: process.stdout.readline().strip() for process in processes if process.stdout}
    (holder,) = [pid for pid, line in said.items() if line == "held"]
    for pid, line in said.items():
        if pid != holder:
            assert line.startswith(f"`out` {folder} is in use: `train` of process {holder} on {host_name()}")
    for process in processes:
        process.communicate("\n")
    assert not folder.exists()  # nothing came of it


def test_a_lock_is_never_replaced_and_outlives_overwrite(tiny_config: MakeConfig, tmp_path: Path):
    folder = tmp_path / "run"
    train_run(tiny_config(OFTEN), folder)
    before = (folder / LOCK).stat().st_ino
    train_run(tiny_config(OFTEN), folder, overwrite=True)
    train_run(tiny_config(OFTEN), folder)
    assert (folder / LOCK).stat().st_ino == before
    assert (folder / LOCK).read_text() == ""


def test_a_lock_whose_file_was_removed_meanwhile_is_not_taken_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Who waits for a lock may get that of a file which its last holder has removed."""
    import fcntl

    opened: list[int] = []
    original = fcntl.flock

    def remove_first(descriptor: int, operation: int) -> None:
        original(descriptor, operation)
        opened.append(os.fstat(descriptor).st_ino)
        if len(opened) == 1:
            (tmp_path / LOCK).rename(tmp_path / "removed")

    monkeypatch.setattr(fcntl, "flock", remove_first)
    with hold(tmp_path, "train"):
        assert (tmp_path / LOCK).stat().st_ino == opened[1] != opened[0]


def test_a_folder_that_is_not_a_runs_gets_no_lock(tiny_config: MakeConfig, tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(InputError, match="holds no run"):
        train_run(tiny_config(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_folder_that_cannot_be_written_is_one_line(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*arguments: Any) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", refuse)
    with (
        pytest.raises(InputError, match=rf"`run` {tmp_path} cannot be written: {os.strerror(number)}"),
        hold(tmp_path, "evaluate"),
    ):
        pass


# --- metrics are tied to checkpoints ---


@pytest.fixture(scope="module")
def stopped(
    tiny_config: MakeConfig, tmp_path_factory: pytest.TempPathFactory
) -> tuple[RunConfig, Path, Path]:
    """Return a config, a run of it that ended (8 steps), and one that stopped after step 6."""
    folder, config = tmp_path_factory.mktemp("opening"), tiny_config(OFTEN)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_module, "save_curves", lambda *arguments: None)
        train_run(config, folder / "whole")
        steps = iter(range(1, 99))
        train_run(config, folder / "part", should_stop=lambda: next(steps) == 6)
    return config, folder / "whole", folder / "part"


def copy(folder: Path, to: Path) -> Path:
    return shutil.copytree(folder, to, symlinks=True)


def lose_end(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 30)


def zero_end(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[:-100] + bytes(100))


def foreign_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-50] = 0xE9
    file.write_bytes(bytes(content))


@pytest.mark.parametrize("damage", [lose_end, zero_end, foreign_byte])
def test_metrics_that_lost_their_end_take_the_run_back_to_a_checkpoint_that_has_its_metrics(
    damage: Callable[[Path], None], stopped: tuple[RunConfig, Path, Path], tmp_path: Path
):
    config, whole, part = stopped
    folder, messages = copy(part, tmp_path / "run"), []
    damage(folder / "metrics.jsonl")
    assert train_run(config, folder, on_message=messages.append) == "done"
    assert f"{folder / 'metrics.jsonl'} is damaged or shorter than at step_00000006." in messages
    assert "Going on from step_00000004." in messages
    assert result(folder) == result(whole)


def lose_beginning(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(b"x" * 100 + content[100:])


@pytest.mark.parametrize("damage", [lose_beginning, Path.unlink, lambda file: os.truncate(file, 0)])
def test_metrics_that_no_checkpoint_has_leave_a_marked_gap(
    damage: Callable[[Path], None], stopped: tuple[RunConfig, Path, Path], tmp_path: Path
):
    config, whole, part = stopped
    folder, messages = copy(part, tmp_path / "run"), []
    damage(folder / "metrics.jsonl")
    assert train_run(config, folder, on_message=messages.append) == "done"
    kept = 5 if damage is lose_beginning else 0
    assert (
        f"No whole checkpoint has its metrics: {kept} records are kept, and the gap is marked in "
        f"{folder / 'metrics.jsonl'}."
    ) in messages
    assert [record for record in read_metrics(folder) if record["kind"] == "gap"] == [
        {"kind": "gap", "step": 6, "num_records_before": kept}
    ]
    trained = [record["step"] for record in read_metrics(folder) if record["kind"] == "train"]
    assert trained == [*range(7 - kept, 7), 7, 8][-(kept + 2) :]
    expected = result(whole)
    assert {name: value for name, value in result(folder).items() if name != "records"} == {
        name: value for name, value in expected.items() if name != "records"
    }
    again: list[str] = []
    assert train_run(config, folder, on_message=again.append) == "done"  # the gap is marked once
    assert len(again) == 2


def test_opening_repairs_the_folder_and_says_so(stopped: tuple[RunConfig, Path, Path], tmp_path: Path):
    _, _, part = stopped
    folder = copy(part, tmp_path / "run")
    checkpoints = folder / "checkpoints"
    (checkpoints / ".writing_step_00000008").mkdir()
    (folder / ".writing_abc_status.json").write_text("{")
    (checkpoints / "step_00000002").rename(checkpoints / ".removing_step_00000002")
    (checkpoints / "last").unlink()
    (checkpoints / "last").symlink_to("step_00000004")
    with (folder / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"kind": "train", "step": 7}\n{"kind": "tr')
    status = json.loads((folder / "status.json").read_text())
    born = birth(os.getpid())
    status |= {"state": "running", "pid": os.getpid(), "born": f"{born}0"}  # the number was given to another
    (folder / "status.json").write_text(json.dumps(status))
    assert read_status(folder)["state"] == "interrupted"
    found, messages = open_run(folder, 3)
    assert found is not None
    assert found.step == 6
    assert messages == [
        f"Process {os.getpid()} on {host_name()} trained this run and died without a word at step 6 or later.",
        "3 files that were being written when the run died are removed.",
        f"2 lines of {folder / 'metrics.jsonl'} after step_00000006 are removed: done again.",
        f"{checkpoints / 'last'} now points at step_00000006.",
    ]
    assert open_run(folder, 3)[1] == messages[:1]
    assert not [path for path in folder.rglob(".*") if path.name != LOCK]


# --- every end of a run is in status.json ---


class Odd(BaseException):
    """Something that nobody foresaw."""


@pytest.mark.parametrize(
    ("error", "raised", "state", "cause"),
    [
        (
            OSError(errno.ENOSPC, "No space"),
            RunError,
            "failed",
            "the disk is full: make room and start again.",
        ),
        (MemoryError(), RunError, "failed", "out of memory: a smaller `training.batch_size`"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
            RunError,
            "failed",
            "out of memory: a smaller",
        ),
        (ZeroDivisionError("nought"), ZeroDivisionError, "failed", "ZeroDivisionError: nought."),
        (KeyboardInterrupt(), KeyboardInterrupt, "stopped", "KeyboardInterrupt."),
        (Odd("odd"), Odd, "failed", "Odd: odd."),
    ],
)
def test_every_end_is_told(
    error: BaseException, raised: type, state: str, cause: str, tiny_config: MakeConfig, tmp_path: Path
):
    def end(step: int, num_steps: int, record: Any) -> None:
        if step == 3:
            raise error

    config = tiny_config(OFTEN)
    with pytest.raises(raised):
        train_run(config, tmp_path / "run", on_step=end)
    status = read_status(tmp_path / "run")
    assert (status["state"], status["step"]) == (state, 3)
    assert status["cause"].startswith(cause)
    assert train_run(config, tmp_path / "run") == "done"


def test_pictures_that_cannot_be_drawn_do_not_stop_a_run(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*arguments: Any) -> None:
        raise RuntimeError("no LaTeX")

    monkeypatch.setattr(train_module, "save_curves", refuse)
    messages: list[str] = []
    assert train_run(tiny_config(OFTEN), tmp_path / "run", on_message=messages.append) == "done"
    assert messages[-1] == "warning: pictures of epoch 2 failed: RuntimeError: no LaTeX. Training goes on."


def test_a_disk_that_is_full_inside_a_checkpoint_is_told(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from safetensors import SafetensorError

    def refuse(*arguments: Any) -> None:
        raise SafetensorError("words that differ from version to version")

    write = Path.write_bytes

    def full(file: Path, content: bytes) -> int:
        if file.suffix == ".safetensors":
            raise OSError(errno.ENOSPC, "No space", str(file))
        return write(file, content)

    monkeypatch.setattr(checkpoint_module, "save_file", refuse)
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(RunError, match=r"the disk is full: make room and start again .*model\.safetensors"):
        train_run(tiny_config(OFTEN), tmp_path / "run")


def test_an_error_of_the_file_system_is_told_by_its_own_name(tmp_path: Path):
    """Of the very library that writes tensors: here a limit on the size of files."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, hard))
    try:
        with pytest.raises(OSError) as found:
            checkpoint_module.save_checkpoint(tmp_path, 1, {"model": {"weight": torch.zeros(2**16)}}, {}, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert found.value.errno == errno.EFBIG


# --- a power cut ---


mkdir, symlink = os.mkdir, os.symlink


class Disk:
    """What a power cut leaves of a folder, at each file operation of what runs while it watches.

    Two disks at once: on one nothing survives that was not synced, neither content nor name; on the other all names
    survive, and content that was not synced is cut in half.
    """

    def __init__(self, root: Path, keep: Path):
        self.root, self.keep = root, keep
        mkdir(root)
        mkdir(keep)
        self.synced: dict[int, bytes] = {}
        self.names: dict[int, dict[str, int]] = {root.stat().st_ino: {}}
        self.held: list[int] = []  # open files, so that no inode number is given twice
        self.cuts: list[Path] = []

    def watch(self, patch: pytest.MonkeyPatch) -> None:
        for name in ("fsync", "rename", "replace", "unlink", "rmdir", "mkdir", "symlink", "truncate"):
            patch.setattr(os, name, self._watched(getattr(os, name), name))

    def _watched(self, original: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self.cut()
            answer = original(*arguments, **options)
            if name == "fsync":
                self._sync(arguments[0])
            return answer

        return call

    def _sync(self, descriptor: int) -> None:
        path, number = Path(f"/proc/self/fd/{descriptor}").readlink(), os.fstat(descriptor).st_ino
        self.held.append(os.dup(descriptor))
        if path.is_dir():
            self.names[number] = {entry.name: entry.lstat().st_ino for entry in path.iterdir()}
            for entry in path.iterdir():  # a new name is nothing without what it is of
                if entry.is_symlink():
                    self.synced[entry.lstat().st_ino] = os.fsencode(entry.readlink())
                self.held.append(os.open(entry, os.O_PATH | os.O_NOFOLLOW))
        else:
            self.synced[number] = path.read_bytes()

    def cut(self) -> None:
        number = len(self.cuts)
        strict, loose = self.keep / f"{number}a", self.keep / f"{number}b"
        mkdir(strict)
        self._strict(self.root.stat().st_ino, strict)
        self._loose(self.root, loose)
        self.cuts += [strict, loose]

    def _strict(self, number: int, to: Path) -> None:
        links = self._links
        for name, inner in self.names.get(number, {}).items():
            if inner in links:
                symlink(os.fsdecode(self.synced[inner]), to / name)
            elif inner in self.names or inner in self._folders:
                mkdir(to / name)
                self._strict(inner, to / name)
            else:
                (to / name).write_bytes(self.synced.get(inner, b""))

    @property
    def _links(self) -> set[int]:
        return {os.fstat(each).st_ino for each in self.held if stat.S_ISLNK(os.fstat(each).st_mode)}

    @property
    def _folders(self) -> set[int]:
        return {os.fstat(each).st_ino for each in self.held if stat.S_ISDIR(os.fstat(each).st_mode)}

    def _loose(self, folder: Path, to: Path) -> None:
        mkdir(to)
        for path in folder.iterdir():
            if path.is_symlink():
                symlink(path.readlink(), to / path.name)
            elif path.is_dir():
                self._loose(path, to / path.name)
            else:
                content, safe = path.read_bytes(), self.synced.get(path.stat().st_ino, b"")
                safe = safe if content.startswith(safe) else b""
                (to / path.name).write_bytes(content[: (len(safe) + len(content)) // 2])


def distinct(cuts: list[Path]) -> Iterator[Path]:
    """Yield one of each kind: most operations change nothing that a cut would leave."""
    seen = set()
    for cut in cuts:
        content = tuple(
            (str(path.relative_to(cut)), path.readlink() if path.is_symlink() else path.read_bytes())
            for path in sorted(cut.rglob("*"))
            if path.is_symlink() or (path.is_file() and path.name not in ("status.json", LOCK))
        )
        if content not in seen:
            seen.add(content)
            yield cut


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="follows files by /proc")
def test_a_power_cut_at_any_file_operation_loses_nothing(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The same command again gives equal bytes, equal metrics and an equal tree."""
    short = {"training.batch_size": 18, "training.checkpoint_every": 1, "training.num_checkpoints": 1}
    config = tiny_config({**OFTEN, **short, "training.num_epochs": 1})
    disk = Disk(tmp_path / "disk", tmp_path / "cuts")
    with pytest.MonkeyPatch.context() as patch:
        disk.watch(patch)
        train_run(config, tmp_path / "disk" / "run")
    expected = result(tmp_path / "disk" / "run")
    for descriptor in disk.held:
        os.close(descriptor)
    cuts = list(distinct(disk.cuts))
    assert len(disk.cuts) > 100
    assert len(cuts) > 30
    assert any(list_checkpoints(cut / "run" / "checkpoints") for cut in cuts)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # no second cut comes
    for cut in cuts:
        assert train_run(config, cut / "run") == "done", cut
        assert result(cut / "run") == expected, cut
