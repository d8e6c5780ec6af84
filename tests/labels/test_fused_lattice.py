import numpy as np
import pytest
import torch

from tests.labels.pictures import picture
from xseg.labels.lattice import Lattice
from xseg.labels.meanfield import colour_features, grid_features

pytest.importorskip("numba", reason="numba is not installed")

from xseg.labels.fused_lattice import FusedLattice

CPU = torch.device("cpu")


def features(noise, size=(90, 110)):
    return colour_features(picture(*size, noise=noise)[None], 80.0, 13.0)


CLOUDS = {
    "grid": lambda: grid_features(33, 47, 3.0, CPU).reshape(1, -1, 2),
    "plain": lambda: features(0),
    "noisy": lambda: features(60),  # more simplices than a first hash table holds
    "one point": lambda: torch.zeros(1, 1, 5),
    "line": lambda: torch.linspace(-40, 40, 101).reshape(1, -1, 1),
}


@pytest.fixture(params=CLOUDS)
def both(request):
    points = CLOUDS[request.param]()
    return Lattice.build(points), FusedLattice.build(points[0].numpy())


def test_weights_are_those_of_the_torch_lattice_bit_by_bit(both):
    lattice, fused = both
    np.testing.assert_array_equal(fused.weights, lattice.weights.numpy())


def renumbered(lattice, fused):
    """The fused lattice's number of every vertex of the other that a point touches, and of none."""
    missing = lattice.neighbours.shape[2] - 1
    found = np.full(missing + 1, -1, np.int64)
    found[lattice.corners.numpy().reshape(-1)] = fused.corners.reshape(-1)
    found[missing] = fused.neighbours.shape[2]
    return found


def test_points_share_vertices_as_in_the_torch_lattice(both):
    lattice, fused = both
    found = renumbered(lattice, fused)
    assert fused.neighbours.shape[2] == lattice.neighbours.shape[2] - 1
    np.testing.assert_array_equal(found[lattice.corners.numpy()], fused.corners)
    known = found[found >= 0]
    assert len(np.unique(known)) == len(known)


def test_neighbours_are_those_of_the_torch_lattice(both):
    lattice, fused = both
    found = renumbered(lattice, fused)
    touched = np.flatnonzero(found[:-1] >= 0)
    others = lattice.neighbours.numpy()[:, :, touched]
    there = found[others] >= 0  # what only the points that fill up touch has no number here
    ours = fused.neighbours[:, :, found[touched]]
    np.testing.assert_array_equal(ours[there], found[others][there])
    assert there.mean() > 0.9
    assert ((others == len(found) - 1) == (ours == fused.neighbours.shape[2])).all()
