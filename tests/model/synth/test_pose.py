"""The pose that a turned head is said to have."""

import numpy as np
import pytest

from feallm.model.synth.draw import Pose, around


@pytest.mark.parametrize(
    "degrees", [(0, 0, 0), (20, 0, 0), (0, -35, 0), (0, 0, 12), (-18, 40, -25)]
)
def test_angles_come_back(degrees):
    pitch, yaw, roll = np.deg2rad(degrees)
    turn = around(2, roll) @ around(0, -pitch) @ around(1, yaw)
    pose = Pose(turn.astype(np.float32), np.zeros(3, np.float32), 100.0, 100.0)
    assert pose.degrees == pytest.approx(degrees, abs=1e-3)


def test_signs():
    """Pitch up, yaw to the head's own left (+x), roll with its own left side up."""
    ahead, left = np.array([0, 0, 1]), np.array([1, 0, 0])
    assert (around(0, -0.3) @ ahead)[1] > 0
    assert (around(1, 0.3) @ ahead)[0] > 0
    assert (around(2, 0.3) @ left)[1] > 0
