"""The facts of algorithms stand once: every list of names is read from `config.names`."""

import ast
from pathlib import Path

import pytest
import torch

import thermograd
from thermograd.config import names
from thermograd.config.sections import ScheduleConfig
from thermograd.config.tables import Table
from thermograd.errors import InputError
from thermograd.evidence import METHODS
from thermograd.gradients.rules import ESTIMATORS, PRIOR_RULES
from thermograd.ladders.named import make_schedule
from thermograd.ladders.schedules import check_schedule
from thermograd.models.networks import GENERATORS
from thermograd.reports.style import FAMILIES
from thermograd.samplers.named import KERNELS
from thermograd.study.file import READY

TABLES = {name: table for name, table in vars(names).items() if isinstance(table, Table)} | {"READY": READY}


@pytest.mark.parametrize(
    ("table", "made"),
    [
        (names.ESTIMATORS, ESTIMATORS),
        (names.PRIOR_RULES, PRIOR_RULES),
        (names.KERNELS, KERNELS),
        (names.GENERATORS, GENERATORS),
        (names.EVIDENCE_METHODS, METHODS),
        (READY, [name for name in FAMILIES if name is not None]),
    ],
    ids=lambda value: getattr(value, "word", ""),
)
def test_what_can_be_named_can_be_made(table: Table, made):
    assert sorted(table) == sorted(made)


@pytest.mark.parametrize("name", names.KERNELS)
def test_the_facts_of_kernels_are_those_of_their_classes(name: str):
    kind = KERNELS[name]
    assert names.KERNELS[name].takes_covariance == kind.takes_covariance
    if kind.takes_covariance:
        assert kind(0.1).with_covariance(torch.eye(2)).factor is not None
    else:
        with pytest.raises(InputError, match="take a covariance"):
            kind(0.1).with_covariance(torch.eye(2))


def test_auto_stands_for_networks_by_whether_there_are_labels():
    assert names.choose_extractor("auto", has_labels=True).name == "classifier"
    assert names.choose_extractor("auto", has_labels=False).name == "efficientnet"
    assert names.choose_extractor("inception", has_labels=True).name == "inception"


@pytest.mark.parametrize("name", names.SCHEDULES)
def test_every_schedule_begins_with_as_few_rungs_as_it_says(name: str):
    fewest = names.SCHEDULES[name].min_rungs
    t = make_schedule(ScheduleConfig(kind=name), fewest)
    check_schedule(t)
    assert t.shape == torch.Size([fewest])


@pytest.mark.parametrize("name", TABLES)
def test_every_entry_says_in_one_line_what_it_is(name: str):
    if name == "READY":
        return
    for facts in TABLES[name].values():
        assert facts.summary
        assert "\n" not in facts.summary
        assert facts.summary in TABLES[name].help


def test_the_estimators_of_new_studies_leave_history_out():
    assert "maximum-likelihood" in names.ESTIMATORS.current
    assert not any(names.ESTIMATORS[name].history for name in names.ESTIMATORS.current)
    assert {name for name, facts in names.ESTIMATORS.items() if facts.history} == {
        "thermodynamic-complete",
        "stepping-stone-detached",
        "stepping-stone-complete",
    }


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(InputError) as caught:
        names.ESTIMATORS.check("maximum-likelyhood", "gradient.estimator")
    words = "`gradient.estimator` 'maximum-likelyhood' is not a known estimator; did you mean 'maximum-likelihood'?"
    assert str(caught.value) == words


SOURCE = Path(thermograd.__file__).parent


def lists_of_names(source: str) -> list[str]:
    """Return the lists, sets, tuples and `Literal`s in a file that write two names of a table, one beside the other."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Tuple | ast.List | ast.Set):
            words = {each.value for each in node.elts if isinstance(each, ast.Constant)}
        elif isinstance(node, ast.Dict):
            words = {each.value for each in node.keys if isinstance(each, ast.Constant)}
        else:
            continue
        for name, table in TABLES.items():
            if len(words & set(table)) > 1:
                found.append(f"line {node.lineno}: {name}")
    return found


ALLOWED = {
    "models/networks.py": "GENERATORS",
    "ladders/named.py": "SCHEDULES",
    "ladders/sampler.py": "POSTERIOR_STARTS",  # what a sampler offers; a run adds chains that persist
    "reports/style.py": "READY",
    "config/names.py": "EXTRACTORS",  # what `auto` stands for
    "evaluation/distances.py": "EXTRACTORS",  # what computes
}


@pytest.mark.parametrize("file", sorted(SOURCE.rglob("*.py")), ids=lambda file: str(file.relative_to(SOURCE)))
def test_no_list_of_names_is_written_twice(file: Path):
    name = str(file.relative_to(SOURCE))
    found = lists_of_names(file.read_text())
    assert [each for each in found if ALLOWED.get(name, "?") not in each] == []


def test_the_search_finds_lists():
    assert lists_of_names('Kernel = Literal["ula", "mala"]') == ["line 1: KERNELS"]
    assert lists_of_names('{"detached": 1, "complete": 2}') == ["line 1: READY"]
    assert lists_of_names('kernel = "ula"') == []
