"""Whatever is read, the answer is a result or one line: the fuzzer's inputs, a few of each kind."""

from pathlib import Path

import pytest

from fuzzing import answer, cases, make_study_folder, property_of

KINDS = (
    *("config", "overrides", "study", "cluster", "data", "checkpoint", "checkpoint state"),
    *("folder config.yaml", "folder environment.json", "folder metrics.jsonl"),
    *("results measurements.jsonl", "results status.json", "results metrics.jsonl", "results study.json"),
)


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    make_study_folder(folder)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_is_read_is_a_result_or_one_line(kind: str, fuzzed: Path):
    (case,) = [case for case in cases(fuzzed) if case[0] == kind]
    property_of(case, fuzzed, 12)()


def test_every_kind_is_tried(fuzzed: Path):
    assert {name for name, _, _ in cases(fuzzed)} == set(KINDS)


def test_a_fault_is_seen(fuzzed: Path):
    def fails(folder: Path, content: bytes) -> object:
        return content[10**6]

    with pytest.raises(IndexError):
        property_of(("planted", [b"x"], fails), fuzzed, 5)()
    answer(lambda folder, content: None, fuzzed, b"")
