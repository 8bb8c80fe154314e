"""The family of separated modes: it has them, and its grid is fine and wide enough."""

import torch

from thermograd.models.grid import GridTwin
from thermograd.models.separated_modes import separated_modes


def test_images_have_one_to_four_modes_with_barriers_between():
    _, twin, x = separated_modes(24)
    masses = twin.masses(x, 1.0)
    right, up = twin.nodes[:, 0] > 0, twin.nodes[:, 1] > 0
    quadrants = torch.stack([masses[(right == a) & (up == b)].sum(0) for a in (0, 1) for b in (0, 1)])
    counts = (quadrants > 1e-3).sum(0)
    assert {1, 2, 4} <= set(counts.tolist())
    # The lowest density on the way between quadrants that hold a thousandth each, against the mode's.
    peak = masses.amax(0)
    valley = torch.stack(
        [
            masses[line].amax(0) / peak
            for line in (twin.nodes[:, 0].abs() < 1e-9, twin.nodes[:, 1].abs() < 1e-9)
        ]
    ).amin(0)
    assert float(valley[counts == 4].amax()) < 1e-6


def test_the_grid_is_fine_and_wide_enough():
    model, twin, x = separated_modes(4)
    assert twin.edge_mass(x) < 1e-6
    finer = GridTwin(model, num_points=321, half_width=5.5)
    with torch.no_grad():
        torch.testing.assert_close(finer.log_evidence(x), twin.log_evidence(x), rtol=0, atol=1e-6)
