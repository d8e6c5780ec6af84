import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.affinity import oracle_pairs
from xseg.affinity.loss import affinities
from xseg.affinity.pairs import half_offsets
from xseg.affinity.transition import power_series, transition


def draw_features(channels, height, width, seed=0, scale=0.5):
    return np.random.default_rng(seed).normal(size=(channels, height, width)) * scale


def draw_maps(count, nodes, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).uniform(0, 1, (count, nodes)))


def built(features, radius=5, beta=8, dtype=torch.float64):
    return transition(affinities(torch.from_numpy(features), radius), beta=beta, radius=radius, dtype=dtype)


@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    radius=st.sampled_from([1.5, 3, 5]),
    beta=st.sampled_from([1, 8, 16]),
    steps=st.sampled_from([0, 1, 2, 3, 7, 8, 30, 61, 256]),
    seed=st.integers(0, 99),
)
def test_walk_equals_the_dense_chain_on_any_grid(height, width, radius, beta, steps, seed):
    features = draw_features(3, height, width, seed)
    maps = draw_maps(2, height * width, seed)
    expected = oracle_pairs.walked(maps.numpy(), oracle_pairs.dense_affinity(features, radius), beta, steps)
    walk = built(features, radius, beta)
    np.testing.assert_allclose(walk.apply(maps, steps, tolerance=1e-13), expected, atol=1e-11)
    np.testing.assert_allclose(walk.apply(maps, steps), expected, atol=5e-7)
    single = built(features, radius, beta, torch.float32).apply(maps.float(), steps)
    np.testing.assert_allclose(single, expected, atol=1e-4)


def test_single_precision_walk_of_an_8x8_grid_equals_dense_squaring_and_flips_no_label():
    features, maps = draw_features(16, 8, 8), draw_maps(4, 64)
    chain = oracle_pairs.dense_transition(oracle_pairs.dense_affinity(features, 5), 8)
    for _ in range(8):
        chain = chain @ chain
    expected = maps.numpy() @ chain
    found = built(features, dtype=torch.float32).apply(maps.float(), 256).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_array_equal(found.argmax(0), expected.argmax(0))


def test_dense_view_is_the_column_normalised_matrix_with_no_isolated_node():
    features = draw_features(4, 7, 9)
    dense = built(features).dense().numpy()
    np.testing.assert_allclose(
        dense, oracle_pairs.dense_transition(oracle_pairs.dense_affinity(features, 5), 8), atol=1e-14
    )
    np.testing.assert_allclose(dense.sum(0), 1, atol=1e-13)
    assert dense.min() >= 0
    assert ((dense > 0).sum(0) > 1).all()


@pytest.mark.parametrize("size", [(20, 24), (9, 11), (56, 56)])
def test_psa_border_isolates_ten_nodes_and_the_default_none(size):
    for border, isolated in (("psa", 10), ("all", 0)):
        pairs = affinities(torch.zeros(1, *size), 5, border)
        rows = transition(pairs).matrix.crow_indices().diff()
        assert int((rows == 1).sum()) == isolated


@settings(max_examples=20, deadline=None)
@given(
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    steps=st.sampled_from([1, 5, 100, 256, 1001]),
    seed=st.integers(0, 99),
)
def test_walk_keeps_constants_the_range_and_the_mass_weighted_by_degree(height, width, steps, seed):
    walk = built(draw_features(2, height, width, seed), dtype=torch.float32)
    maps = draw_maps(3, height * width, seed).float()
    found = walk.apply(torch.cat([maps, torch.full_like(maps[:1], 0.3)]), steps)
    torch.testing.assert_close(found[3], torch.full_like(found[3], 0.3), rtol=1e-6, atol=0)
    assert torch.all(found[:3] >= maps.amin(1, keepdim=True))
    assert torch.all(found[:3] <= maps.amax(1, keepdim=True))
    degree = walk.root_degree.square()
    torch.testing.assert_close((found[:3] * degree).sum(1), (maps * degree).sum(1), rtol=1e-4, atol=1e-4)


def test_a_very_long_walk_ends_at_the_mean_weighted_by_degree():
    walk, maps = built(draw_features(2, 9, 9)), draw_maps(2, 81)
    degree = walk.root_degree.square()
    mean = (maps * degree).sum(1, keepdim=True) / degree.sum()
    torch.testing.assert_close(walk.apply(maps, 2**16), mean.expand(2, 81).contiguous(), rtol=0, atol=1e-6)


def test_signed_maps_walk_too():
    features, maps = draw_features(3, 6, 6), draw_maps(2, 36) - 0.5
    expected = oracle_pairs.walked(maps.numpy(), oracle_pairs.dense_affinity(features, 5), 8, 256)
    np.testing.assert_allclose(built(features).apply(maps, 256), expected, atol=5e-7)


def test_no_step_and_no_map_give_back_what_came():
    walk, maps = built(draw_features(3, 5, 5)), draw_maps(2, 25)
    assert torch.equal(walk.apply(maps, 0), maps)
    assert walk.apply(maps[:0], 256).shape == (0, 25)


def test_a_single_node_keeps_its_value():
    walk = built(draw_features(3, 1, 1), dtype=torch.float32)
    assert torch.equal(walk.apply(torch.tensor([[0.7], [0.1]]), 256), torch.tensor([[0.7], [0.1]]))


def test_affinities_that_vanish_leave_each_node_on_its_own():
    walk = transition(torch.zeros(34, 5, 6))
    maps = draw_maps(2, 30).float()
    assert walk.matrix.values().numel() == 30
    torch.testing.assert_close(walk.apply(maps, 256), maps, rtol=1e-6, atol=0)


@settings(max_examples=40, deadline=None)
@given(steps=st.integers(1, 3000), tolerance=st.sampled_from([1e-2, 1e-5, 1e-9]))
def test_series_is_the_power_within_twice_its_tolerance_and_sums_to_one(steps, tolerance):
    series, points = power_series(steps, tolerance), np.linspace(-1, 1, 1001)
    assert sum(series) == pytest.approx(1, abs=1e-13)
    assert min(series) >= 0
    error = np.abs(np.polynomial.chebyshev.chebval(points, series) - points**steps).max()
    assert error <= 2 * tolerance + 1e-12


def test_256_steps_take_about_70_products():
    assert len(power_series(256, 1e-5)) - 1 == 70
    assert len(power_series(256, 1)) == 3


def test_memory_is_a_few_links_a_node():
    features = draw_features(2, 128, 64)
    matrix = built(features, dtype=torch.float32).matrix
    assert matrix.values().numel() <= 69 * 128 * 64
    assert matrix.col_indices().dtype == torch.int32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_less_than_single_precision_is_refused(dtype):
    with pytest.raises(ValueError, match="float32 or float64"):
        transition(torch.zeros(34, 4, 4, dtype=dtype))
    with pytest.raises(ValueError, match="dtype: "):
        transition(torch.zeros(34, 4, 4), dtype=dtype)
    with pytest.raises(ValueError, match="maps: "):
        transition(torch.zeros(34, 4, 4)).apply(torch.zeros(2, 16, dtype=dtype), 8)


def test_mixed_precision_around_the_walk_is_switched_off():
    walk, maps = built(draw_features(3, 6, 6), dtype=torch.float32), draw_maps(2, 36).float()
    with torch.autocast("cpu", torch.bfloat16):
        inside = walk.apply(maps, 256)
    assert torch.equal(inside, walk.apply(maps, 256))


def test_wrong_shapes_and_steps_are_refused():
    with pytest.raises(ValueError, match="needed \\(34, h, w\\)"):
        transition(torch.zeros(33, 4, 4))
    walk = transition(torch.zeros(len(half_offsets(3)), 4, 4), radius=3)
    with pytest.raises(ValueError, match="maps"):
        walk.apply(torch.zeros(2, 15), 8)
    with pytest.raises(ValueError, match="steps"):
        walk.apply(torch.zeros(2, 16), -1)


@pytest.mark.gpu
def test_cuda_walks_the_same_way():
    features, maps = torch.from_numpy(draw_features(8, 30, 41)).float(), draw_maps(4, 1230).float()
    results = [
        transition(affinities(features.to(device))).apply(maps.to(device), 256).cpu() for device in ("cpu", "cuda")
    ]
    torch.testing.assert_close(*results, rtol=0, atol=1e-4)
    assert torch.equal(results[0].argmax(0), results[1].argmax(0))
