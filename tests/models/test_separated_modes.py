"""The family of separated modes: it has them, and its grid is fine and wide enough."""

import torch
from torch.nn.functional import max_pool2d

from thermograd.models.grid import GridTwin
from thermograd.models.separated_modes import separated_modes


def test_images_have_one_to_four_modes_with_barriers_between():
    _, twin, x = separated_modes(24)
    masses = twin.masses(x, 1.0).mT.reshape(24, 161, 161)
    peak = masses.amax((1, 2), keepdim=True)
    is_mode = (masses == max_pool2d(masses, 3, stride=1, padding=1)) & (masses > 1e-4 * peak)
    counts = is_mode.sum((1, 2))
    assert {1, 2, 3, 4} <= set(counts.tolist())
    assert int(counts.max()) == 4
    # The highest density on an axis, which lies between modes of opposite signs.
    barriers = torch.stack([masses[:, 80].amax(1), masses[:, :, 80].amax(1)]) / peak.flatten()
    assert int((barriers.amin(0)[counts > 1] < 1e-10).sum()) >= 5


def test_the_grid_is_fine_and_wide_enough():
    model, twin, x = separated_modes(4)
    assert twin.edge_mass(x) < 1e-6
    finer = GridTwin(model, num_points=321, half_width=5.5)
    with torch.no_grad():
        torch.testing.assert_close(finer.log_evidence(x), twin.log_evidence(x), rtol=0, atol=1e-6)
