"""Progress: loops inside loops as one fraction, the time left, and lines that a log can hold."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbclient
import nbformat
import pytest

from thermograd import cli, progress
from thermograd.progress import Meter, in_words, shown, steps

TOLD = re.compile(r"letters \d/4, .*left")


class Clock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_loops_inside_loops_are_parts_of_a_step_and_give_the_time_left():
    clock, seen = Clock(), []
    meter = Meter(lambda meter: seen.append((meter.fraction, meter.seconds_left)), clock)
    for moment, what, done, total in (
        (0, "epochs", 0, 2),
        (0, "batches", 0, 5),
        (3, "batches", 1, 5),
        (15, "batches", 5, 5),
        (15, "epochs", 1, 2),
        (15, "samples", 1, 4),  # another loop, in the second epoch
        (20, "epochs", 2, 2),
    ):
        clock.now = moment
        meter.tell(what, done, total)
    fractions = [fraction for fraction, _ in seen]
    assert fractions == pytest.approx([0, 0, 0.1, 0.5, 0.5, 0.625, 1])
    lefts = [left for _, left in seen]
    assert lefts[:2] == [None, None]
    assert lefts[2:] == pytest.approx([27, 15, 15, 9, 0])


def test_a_loop_that_goes_on_counts_its_pace_from_where_it_began():
    clock = Clock()
    meter = Meter(lambda meter: None, clock)
    meter.tell("steps", 80, 100)
    clock.now = 5.0
    meter.tell("steps", 90, 100, "note")
    assert meter.seconds_left == pytest.approx(5)
    assert str(meter) == "steps 90/100, 5 s left, note"
    meter.tell("steps", 100, 100)
    meter.tell("checkpoints", 0, 3)
    assert str(meter) == "checkpoints 0/3"


def test_a_loop_that_is_left_early_is_at_its_end(monkeypatch: pytest.MonkeyPatch):
    told = []
    monkeypatch.setattr(progress, "tell", lambda *words: told.append(words))
    for letter in steps("abcd", "letters"):
        if letter == "b":
            break
    assert told == [("letters", 0, 4), ("letters", 1, 4), ("letters", 4, 4)]


def test_nobody_listens_nothing_is_printed(capsys: pytest.CaptureFixture[str]):
    assert list(steps("abcd", "letters")) == list("abcd")
    with shown(only_live=True):
        assert list(steps("abcd", "letters")) == list("abcd")
    assert capsys.readouterr() == ("", "")


def test_a_log_gets_a_line_now_and_then_without_control_characters(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    clock = Clock()
    monkeypatch.setattr(progress.time, "monotonic", clock)
    with shown() as say:
        say("It begins.")
        for _ in steps(range(100), "steps"):
            clock.now += 1.0
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines[0] == "It begins."
    assert lines[1] == "steps 10/100, 90 s left"
    assert lines[-1] == "steps 100/100"
    assert len(lines) == 11
    assert all(line.isprintable() for line in lines)


def test_a_terminal_gets_a_bar_with_the_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with shown() as say:
        for letter in steps("abcd", "letters"):
            progress.time.sleep(0.15)
            say(f"[red]{letter}")
    err = capsys.readouterr().err
    assert TOLD.search(err)
    assert "[red]a" in err


def test_times_in_words():
    assert [in_words(t) for t in (0.2, 99, 130, 5999, 8000)] == [
        "0 s",
        "99 s",
        "2 min",
        "1 h 40 min",
        "2 h 13 min",
    ]


def test_ctrl_c_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    words = ["train", "digits", "--out", str(tmp_path / "run"), "--epochs", "1", "--no-measure"]
    assert cli.run([*words, "--data.num_images", "128", "--prior_chains.num_steps", "1"]) == 0

    def interrupted(*_: object, **__: object) -> Iterator[None]:
        raise KeyboardInterrupt

    monkeypatch.setattr("thermograd.evaluation.clock.measure_checkpoint", interrupted)
    capsys.readouterr()
    assert cli.run(["measure", str(tmp_path / "run")]) == 130
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == (
        f"thermograd: stopped. What was measured is kept; go on with: thermograd measure {tmp_path / 'run'}"
    )


def test_progress_brings_no_torch_and_no_rich():
    code = "import sys, thermograd.progress; sys.exit(any(m in sys.modules for m in ('torch', 'rich')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
def test_a_notebook_gets_one_line_that_follows_the_work():
    source = (
        "import time\nfrom thermograd.progress import shown, steps\n"
        "with shown(only_live=True):\n    for _ in steps(range(4), 'letters'):\n        time.sleep(0.2)"
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    (output,) = notebook.cells[0].outputs
    assert output.data["text/plain"] == "letters 4/4"
