"""The file of measurements: the last of a key counts, nothing is lost to a crash or to another writer."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from thermograd.errors import InputError
from thermograd.evaluation.records import FILE, Record, add_record, plain, read_records


def record(**changes) -> Record:
    made = Record("evaluation", "command", "digits", "test", "step_00000004", 4, 1, 0, {"n": 3}, {"q": 1.0})
    return replace(made, **changes)


def test_the_last_of_a_key_counts_and_every_part_of_a_key_tells_records_apart(tmp_path: Path):
    others = [
        record(kind="variance"), record(source="clock"), record(split="train"), record(step=5),
        record(seed=1), record(settings={"n": 4}), record(dataset="mnist"),
    ]  # fmt: skip
    for each in (record(), *others, record(values={"q": 2.0})):
        add_record(tmp_path, each)
    assert read_records(tmp_path) == [record(values={"q": 2.0}), *others]
    assert len((tmp_path / FILE).read_text().splitlines()) == 9
    assert read_records(tmp_path, "variance") == [others[0]]
    assert read_records(tmp_path, "evaluation", "clock") == [others[1]]
    assert read_records(tmp_path / "missing") == []


def test_a_torn_line_is_told_and_costs_no_other(tmp_path: Path):
    add_record(tmp_path, record())
    whole = (tmp_path / FILE).read_text()
    (tmp_path / FILE).write_text(whole + whole[:40])
    add_record(tmp_path, record(seed=1))
    with pytest.warns(UserWarning, match="torn lines are left out: 2"):
        assert read_records(tmp_path) == [record(), record(seed=1)]


def test_a_line_of_another_form_is_bad_input(tmp_path: Path):
    (tmp_path / FILE).write_text(json.dumps({"kind": "evaluation"}) + "\n")
    with pytest.raises(InputError, match="line 1, is not a measurement of this version"):
        read_records(tmp_path)


def test_numbers_that_json_does_not_have_are_none():
    assert plain({"a": (math.nan, 1.5, Path("x")), 3: math.inf}) == {"a": [None, 1.5, "x"], "3": None}


def test_writers_at_once_lose_nothing(tmp_path: Path):
    """Lines longer than any buffer, from three processes."""
    program = (
        "import sys; from pathlib import Path; from thermograd.evaluation.records import *\n"
        "for i in range(20): add_record(Path(sys.argv[1]), Record('evidence', 'command', 'd', 'test', 'c', i, 1, "
        "int(sys.argv[2]), {}, {'x': 'y' * 100_000}))"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", program, str(tmp_path), str(seed)]) for seed in range(3)
    ]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert sorted((r.seed, r.step) for r in read_records(tmp_path)) == [
        (s, i) for s in range(3) for i in range(20)
    ]
