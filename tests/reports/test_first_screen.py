"""The first screen of a report: objectives in words, one sentence, samples that stand once; and tables that fit."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from reports.test_report import ARMS, CONTRASTS, KD, make_study, synthetic_table, undrawn
from thermograd.config import names
from thermograd.reports import write_report
from thermograd.reports.collect import ReportData, collect, objective
from thermograd.reports.conclusions import conclude
from thermograd.reports.gallery import COLUMNS, ROWS, exhibits
from thermograd.reports.layout import MOST_COLUMNS, Cell, _crossed
from thermograd.reports.opening import arm_words, opening
from thermograd.runs.pictures import image_grid, read_grid, save_png


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of two seeds, too few for intervals."""
    return make_study(tmp_path_factory.mktemp("two") / "two", num_seeds=2)


@pytest.fixture(scope="module")
def data(study: Path) -> ReportData:
    return collect(study)


@pytest.fixture(scope="module")
def page(study: Path) -> str:
    """Return the page with empty drawings: words are what is looked at here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("thermograd.reports.page._draw", undrawn)
        return write_report(study).read_text()


def test_every_estimator_says_what_it_ascends():
    assert all(facts.objective for facts in names.ESTIMATORS.values())
    assert objective("thermodynamic-complete") == objective("maximum-likelihood") == "log p(x)"
    assert objective("thermodynamic-detached") != "log p(x)"
    assert objective("mine") == "mine", "of a plugin's nothing is claimed"


def test_arms_stand_under_their_objective(data: ReportData):
    found = opening(data, conclude(data.table, data.source.contrasts, data.arms))
    assert {words: [arm.name for arm in arms] for words, arms in found.objectives.items()} == {
        "log p(x)": ["vanilla", "placebo", "complete-p1", "complete-p3", "noise-c4"],
        "the thermodynamic integral with its draws held fixed": ["detached-p1", "detached-p3"],
    }
    words = arm_words(next(run.config for run in data.source.runs if run.arm == "complete-p3"))
    assert "on each of 6 rungs, (k/N)^3" in words
    assert "rungs" not in arm_words(data.source.runs[0].config), "vanilla has no ladder"
    noisy = arm_words(next(run.config for run in data.source.runs if run.arm == "noise-c4"))
    assert "noise of 4 times the chains' own" in noisy


def test_the_answer_is_one_sentence_of_all_contrasts():
    table = synthetic_table(0, effects={("complete-p3", KD): -6.0})
    found = conclude(table, CONTRASTS, ARMS)
    from thermograd.reports.opening import _clause

    clauses = [_clause(result) for result in found.contrasts]
    assert "lower than that of vanilla, which is better (confirmed over 8 paired seeds)" in clauses[0]
    assert clauses[1].startswith("no difference in kernel distance")
    few = conclude(synthetic_table(0, num_seeds=2), CONTRASTS, ARMS)
    assert "over 2 paired seeds, not confirmed" in _clause(few.contrasts[0])


def test_two_seeds_are_dots_without_intervals(page: str, study: Path):
    assert "<small>" not in page
    assert "too few for an interval" in page
    assert "bands reach" not in page
    assert "Below 3 seeds there are no intervals" in page
    assert "95 % interval" not in re.sub("\N{NO-BREAK SPACE}", " ", page)


def test_links_lead_to_runs_tables_and_docs(page: str, study: Path):
    ways = [way for way in re.findall(r'href="([^"#]+)"', page) if not way.startswith(("data:", "https:"))]
    assert len(ways) > 14
    assert [way for way in ways if not (study / "report" / way).exists()] == []
    sections = re.findall(r'href="#(\w+)"', page)
    assert sections
    assert [each for each in sections if f'id="{each}"' not in page] == []
    assert "thermograd study run study.yaml --out AGAIN" in page


def test_there_is_a_dark_page(page: str):
    dark = page[page.index("@media screen and (prefers-color-scheme: dark)") :]
    assert "img.drawing, .swatch { filter: invert" in dark[: dark.index("\n}\n")]


# --- images ---


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32)])
def test_a_grid_is_read_as_it_was_laid_out(shape: tuple[int, int, int], tmp_path: Path):
    images = torch.rand(64, *shape) * 2 - 1
    save_png(image_grid(images), tmp_path / "grid.png")
    found = read_grid(tmp_path / "grid.png", shape)
    assert found is not None
    expected = ((images + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(found, expected)
    assert read_grid(tmp_path / "grid.png", (shape[0], shape[1] + 1, shape[2])) is None


def test_samples_stand_once_with_their_nearest_images_in_the_same_places(data: ReportData):
    shown = exhibits(data)
    assert [each.arm for each in shown] == list(data.arms)
    for each in shown:
        sources = [each.samples.source, *(tile.source for tile in each.beside)]
        assert len(set(sources)) == 3
        nearest, _ = each.beside
        assert (nearest.width, nearest.height) == (each.samples.width, each.samples.height)
        assert (each.samples.width, each.samples.height) == (9 * COLUMNS - 1, 9 * ROWS - 1)
        assert f"{COLUMNS * ROWS} samples, seed 0, step 80" in each.samples.words


# --- tables ---


@pytest.mark.parametrize(("num_metrics", "num_arms"), [(12, 2), (3, 20), (12, 20)])
def test_tables_are_no_wider_than_a_page_and_lose_nothing(num_metrics: int, num_arms: int):
    cells = {
        (f"m{i}", f"a{j}"): Cell(f"{i} {j}") for i in range(num_metrics) for j in range(num_arms) if i + j
    }
    tables = _crossed("t", "Title", cells)
    assert all(len(table.columns) <= 1 + MOST_COLUMNS for table in tables)
    assert len({table.name for table in tables}) == len(tables)
    seen = {}
    for table in tables:
        for first, *others in table.rows:
            for column, cell in zip(table.columns[1:], others, strict=True):
                key = (first.text, column) if first.text.startswith("m") else (column, first.text)
                seen[key] = cell
    assert seen.pop(("m0", "a0")) == Cell("–")
    assert seen == cells
