import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.labels.oracle_meanfield import gaussian_matrix
from xseg.labels.lattice import Lattice


def scattered(batch, points, d, spread=3.0, seed=0):
    return torch.randn(batch, points, d, generator=torch.Generator().manual_seed(seed)) * spread


def as_matrix(lattice, points):
    return lattice.filter(torch.eye(points)[None])[0].double().numpy()


@settings(max_examples=25, deadline=None)
@given(points=st.integers(1, 40), d=st.integers(1, 6), seed=st.integers(0, 999))
def test_barycentric_weights_sum_to_one_and_rebuild_the_elevated_point(points, d, seed):
    features = scattered(1, points, d, seed=seed)
    lattice = Lattice.build(features)
    assert lattice.weights.min() >= -1e-5
    torch.testing.assert_close(lattice.weights.sum(1), torch.ones(points))
    assert (np.diff(lattice.starts.numpy()) >= 0).all()
    assert lattice.touches.sum().item() == pytest.approx(points, rel=1e-4)


@settings(max_examples=20, deadline=None)
@given(points=st.integers(1, 30), d=st.integers(1, 5), seed=st.integers(0, 999))
def test_filtering_is_linear(points, d, seed):
    lattice = Lattice.build(scattered(1, points, d, spread=1.0, seed=seed))
    values = torch.randn(1, points, 3, generator=torch.Generator().manual_seed(seed))
    expected = as_matrix(lattice, points) @ values[0].double().numpy()
    np.testing.assert_allclose(lattice.filter(values)[0].numpy(), expected, atol=1e-5)


def test_the_splat_is_the_transpose_of_the_slice():
    lattice = Lattice.build(scattered(2, 37, 5, spread=0.7))
    points, corners = lattice.corners.shape
    slices = torch.zeros(points, lattice.neighbours.shape[2], dtype=torch.float64)
    slices.index_put_(
        (torch.arange(points)[:, None], lattice.corners.long()), lattice.weights.double(), accumulate=True
    )
    splats = torch.zeros_like(slices)
    vertex = torch.repeat_interleave(torch.diff(lattice.starts, append=torch.tensor([points * corners])))
    splats.index_put_((lattice.points.long(), vertex), lattice.touches.double(), accumulate=True)
    torch.testing.assert_close(splats, slices)


def test_every_vertex_lists_its_points_in_order():
    lattice = Lattice.build(scattered(1, 150, 2, spread=0.5))
    ends = [*lattice.starts[1:].tolist(), len(lattice.points)]
    for start, end in zip(lattice.starts.tolist(), ends, strict=True):
        assert (lattice.points[start:end].diff() >= 0).all()


def test_neighbours_point_back_at_each_other():
    neighbours = Lattice.build(scattered(1, 200, 3, spread=0.8)).neighbours
    missing = neighbours.shape[2] - 1
    assert (neighbours < missing).any()
    for lower, upper in neighbours:
        vertices = torch.arange(missing)
        there = lower[:-1] < missing
        assert (upper[lower[:-1][there]] == vertices[there]).all()
        assert (lower[-1], upper[-1]) == (missing, missing)


def test_a_dense_cloud_is_filtered_like_a_gaussian():
    points = 400
    features = scattered(1, points, 2, spread=0.8)
    exact, found = gaussian_matrix(features[0].numpy()), as_matrix(Lattice.build(features), points)
    ratio = found.sum() / exact.sum()
    assert np.abs(found / ratio - exact).mean() < 0.06
    assert np.corrcoef(found.ravel(), exact.ravel())[0, 1] > 0.98


@pytest.mark.parametrize("points", [1, 2, 3, 4, 5, 33])
def test_images_of_a_batch_do_not_touch_each_other(points):
    features = torch.stack([scattered(1, points, 5, seed=0)[0], scattered(1, points, 5, spread=9, seed=1)[0]] * 2)
    values = torch.randn(4, points, 2, generator=torch.Generator().manual_seed(2))
    together = Lattice.build(features).filter(values)
    for i in range(4):
        alone = Lattice.build(features[i : i + 1]).filter(values[i : i + 1])[0]
        torch.testing.assert_close(together[i], alone, atol=1e-6, rtol=1e-6)


def test_equal_points_in_different_images_do_not_touch_each_other():
    features = scattered(1, 9, 2).expand(3, -1, -1)
    values = torch.zeros(3, 9, 1)
    values[1] = 1
    assert Lattice.build(features).filter(values)[[0, 2]].abs().max() == 0


def test_shape_type_and_range_are_checked():
    with pytest.raises(ValueError, match="B N d"):
        Lattice.build(torch.zeros(3, 2))
    with pytest.raises(ValueError, match="float32"):
        Lattice.build(torch.zeros(1, 3, 2, dtype=torch.float64))
    with pytest.raises(ValueError, match="wider Gaussians"):
        Lattice.build(scattered(1, 50, 5, spread=1e6))
    with pytest.raises(ValueError, match="values"):
        Lattice.build(scattered(2, 5, 2)).filter(torch.zeros(2, 6, 1))
