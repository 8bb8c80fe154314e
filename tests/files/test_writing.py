"""Files are whole or absent, and two that write the same file at once do not meet."""

import os
from pathlib import Path

import pytest

from thermograd.files import append_line, begun_writing, remove_leftovers, write_atomically, written_whole


def test_two_that_write_one_file_at_once_both_succeed(tmp_path: Path):
    file = tmp_path / "a.txt"
    with written_whole(file) as one, written_whole(file) as two:
        one.write_text("one")
        two.write_text("two")
        assert not file.exists()
    assert file.read_text() == "one"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_what_fails_half_way_leaves_the_old_file(tmp_path: Path):
    file = tmp_path / "deep" / "a.txt"
    write_atomically(file, "old")

    def fail() -> None:
        with written_whole(file) as aside:
            aside.write_text("ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert file.read_text() == "old"
    assert [path.name for path in file.parent.iterdir()] == ["a.txt"]


def test_text_is_utf_8_whatever_the_locale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("locale.getpreferredencoding", lambda *arguments: "ascii")
    write_atomically(tmp_path / "a.txt", "学习率\r\n")
    assert (tmp_path / "a.txt").read_bytes() == "学习率\r\n".encode()


def test_a_name_of_the_greatest_length_can_be_written(tmp_path: Path):
    write_atomically(tmp_path / ("x" * 251 + ".txt"), "a")


def test_a_process_that_dies_leaves_what_can_be_told(tmp_path: Path):
    if (pid := os.fork()) == 0:
        with written_whole(tmp_path / "a.txt") as aside:
            aside.write_text("a")
            os._exit(0)
    os.waitpid(pid, 0)
    assert len(begun_writing(tmp_path)) == 1
    assert remove_leftovers(tmp_path) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("before", "after"), [("", "x\n"), ("a\n", "a\nx\n"), ("a\nb", "a\nb\nx\n")])
def test_a_line_is_added_after_a_torn_one_is_ended(before: str, after: str, tmp_path: Path):
    (tmp_path / "a").write_text(before)
    append_line(tmp_path / "a", "x")
    assert (tmp_path / "a").read_text() == after
