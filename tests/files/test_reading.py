"""One reader: text as it is written, keys once, limits, and one line that names the file for whatever it holds."""

from pathlib import Path
from typing import Any

import pytest

from thermograd.errors import InputError
from thermograd.files import parse_yaml, read_json, read_json_lines, read_text, read_yaml
from thermograd.files.reading import MAX_DEPTH, MAX_NODES, MAX_YAML_BYTES


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *((text, text) for text in ("1:30", "1_000", "on", "off", "yes", "no", "y", "010", "0x1f", "0b1")),
        *((text, text) for text in ("2001-01-01", "2001-01-01 10:00:00", "=", "1e", ".", "e5", "12:30:45")),
        *((text, int(text)) for text in ("0", "-3", "+5", "123456789012345678901234567890")),
        *((text, float(text)) for text in ("1e-4", "1E3", "-1.5", "2.", ".5", "1.0e+400")),
        (".inf", float("inf")),
        ("-.INF", -float("inf")),
        *((text, True) for text in ("true", "True", "TRUE")),
        *((text, False) for text in ("false", "False")),
        *((text, None) for text in ("", "~", "null", "Null")),
        ("'5'", "5"),
        ("[1, on, 1:30]", [1, "on", "1:30"]),
        ("{on: 1, 2: no, 1e3: x, ~: y}", {"on": 1, "2": "no", "1e3": "x", "~": "y"}),
        ("!!str 5", "5"),
        *((text, text) for text in ("!!int x", "[1", "@", "*a", "a: b: c", "%")),
    ],
)
def test_values_are_what_was_written(text: str, value: Any):
    """YAML 1.1 makes 90 of 1:30, True of on, 8 of 010 and text of 1e-4."""
    found = parse_yaml(text, "--a.b")
    assert found == value
    assert type(found) is type(value)


def test_merge_keys_stay(tmp_path: Path):
    (tmp_path / "c.yaml").write_text("base: &b {x: 1, y: 2}\nown: {<<: *b, y: 3}\nboth: {<<: [*b, {z: 4}]}\n")
    assert read_yaml(tmp_path / "c.yaml") == {
        "base": {"x": 1, "y": 2},
        "own": {"x": 1, "y": 3},
        "both": {"x": 1, "y": 2, "z": 4},
    }


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9)
)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("seed: 1\nseed: 2", "gives `seed` twice (lines 1 and 2)"),
        ("a:\n  b: {x: 1, y: 2, x: 3}", "gives `x` twice (line 2)"),
        ("- {a: 1, 'a': 2}", "gives `a` twice (line 1)"),
        ("? [1]\n: 2", "has a key that is not a name (line 1)"),
        (BOMB, f"holds more than {MAX_NODES:,} values (line 5)"),
        ("".join(f"k{i}: {i}\n" for i in range(MAX_NODES // 2)), f"holds more than {MAX_NODES:,} values"),
        ("model: &a {energy: *a}", "holds an alias of what it is itself a part of"),
        ("a: " + "[" * 3000 + "]" * 3000, f"is nested deeper than {MAX_DEPTH} levels (line 1)"),
        (
            "".join("  " * i + "a:\n" for i in range(600)),
            f"is nested deeper than {MAX_DEPTH} levels (line 50)",
        ),
        ("seed: " + "9" * 5000, "has a number of 5000 digits, more than 100 (line 1)"),
        ("a: " + "x" * MAX_YAML_BYTES, "must be at most 1,048,576 bytes"),
        ("seed: !!int x", "holds a value that cannot be read"),
        ("a: !!bool maybe", "holds a value that cannot be read"),
        *(
            (f"a: !!{tag}", f"has a value with the tag !!{tag[:3]}")
            for tag in ("binary x", "set {a, b}", "timestamp x")
        ),
        ("a: !!python/object/apply:os.system ['touch pwned']", "has a value with the tag !!python"),
        ("a: 1\n---\nb: 2", "is not YAML: line 2"),
        ("a:\t1\n\tb: 2", "is not YAML: line"),
        ("a: [1", "is not YAML: line"),
        ("a: \x00", "is not YAML: unacceptable character"),
        (b"\xff\xfes\x00", "is not UTF-8 text: byte 0"),
        ("- 1", "must hold a mapping of settings, got list"),
        ("x", "must hold a mapping of settings, got str"),
    ],
)
def test_what_can_not_be_read_is_one_line_that_names_the_file(content: Any, problem: str, tmp_path: Path):
    file = tmp_path / "c.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as error:
        read_yaml(file, "cluster")
    assert str(error.value).startswith(f"`cluster` {file} {problem}")
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "problem"),
    [("missing", "does not exist"), (".", "is not a file"), ("a\0b", "is not a file name")],
)
def test_what_is_no_file_is_named(name: str, problem: str, tmp_path: Path):
    with pytest.raises(InputError, match=rf"^`config` .* {problem}\.$"):
        read_text(tmp_path / name, "config")


@pytest.mark.parametrize("content", ["", "{", "[" * 100_000, '{"a": ' + "9" * 5000 + "}", "nope"])
def test_json_that_is_damaged_is_one_line(content: str, tmp_path: Path):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(InputError, match=rf"^`run` {tmp_path}/a.json is damaged: .*\.$"):
        read_json(tmp_path / "a.json", "run")


def test_damaged_lines_are_passed_over(tmp_path: Path):
    (tmp_path / "m.jsonl").write_bytes(
        b'{"a": 1}\n{"b\n\0\0\0\n5\n{"c": "\xe9"}\n' + b"[" * 100_000 + b'\n{"d": 2}'
    )
    assert list(read_json_lines(tmp_path / "m.jsonl")) == [{"a": 1}, {"d": 2}]
    assert list(read_json_lines(tmp_path / "none")) == []
