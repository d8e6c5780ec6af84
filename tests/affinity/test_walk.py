import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.affinity import oracle_pairs
from xseg.affinity.loss import affinities
from xseg.affinity.transition import transition
from xseg.affinity.walk import PRESETS, random_walk, with_constant_background

FIXTURES = ["psa_rw_20x24", "psa_rw_9x11"]


def psa_maps(file):
    """Background (1 - max)^16 in front of the stored maps."""
    cams = file["cams"].astype(np.float64)
    return np.concatenate([(1 - cams.max(0, keepdims=True)) ** 16, cams])


@pytest.mark.parametrize("fixture", FIXTURES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 3e-7), (torch.float32, 1e-6)])
def test_each_step_of_the_published_walk_is_reproduced(shared, fixture, dtype, tolerance):
    with np.load(shared(f"reference/fixtures/{fixture}.npz")) as file:
        pairs = affinities(torch.from_numpy(file["features"]).to(dtype), 5, "psa")
        first_power = transition(pairs, beta=1)
        symmetric = first_power.matrix.to_dense() * first_power.root_degree[:, None] * first_power.root_degree
        np.testing.assert_allclose(symmetric, file["aff_dense"], atol=1e-6)
        walk = transition(pairs, beta=8)
        identity = torch.eye(walk.root_degree.numel(), dtype=dtype)
        np.testing.assert_allclose(walk.apply(identity, 256), file["trans_256"], atol=tolerance)
        pooled = torch.from_numpy(file["cam_pooled"]).to(dtype).flatten(1)
        found = walk.apply(pooled, 256, tolerance=1e-13).numpy().reshape(file["cam_rw"].shape)
        np.testing.assert_allclose(found, file["cam_rw"], atol=1e-11 if dtype == torch.float64 else 5e-7)


@pytest.mark.parametrize("fixture", FIXTURES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_whole_published_walk_is_reproduced_to_the_same_labels(shared, fixture, dtype):
    with np.load(shared(f"reference/fixtures/{fixture}.npz")) as file:
        maps = torch.from_numpy(psa_maps(file)).to(dtype)
        pairs = affinities(torch.from_numpy(file["features"]).to(dtype), 5, "psa")
        psa = PRESETS["psa"]
        full = random_walk(maps, pairs, beta=psa.beta, steps=psa.steps, stride=psa.stride, radius=psa.radius).numpy()
        height, width = file["image_size"]
        np.testing.assert_allclose(full, file["cam_rw_full_padded"][:, :height, :width], atol=1e-6)
        np.testing.assert_array_equal(file["channels"][full.argmax(0)], file["pred"])


@settings(max_examples=20, deadline=None)
@given(
    height=st.integers(1, 45),
    width=st.integers(1, 45),
    stride=st.sampled_from([4, 8]),
    steps=st.sampled_from([0, 1, 8, 256]),
    seed=st.integers(0, 99),
)
def test_walk_of_any_image_size_equals_pooling_chain_and_enlarging_densely(height, width, stride, steps, seed):
    rng = np.random.default_rng(seed)
    maps, rows, columns = rng.uniform(0, 1, (3, height, width)), -(-height // stride), -(-width // stride)
    features = rng.normal(size=(4, rows, columns)) / 2
    start = oracle_pairs.pooled(maps, stride)
    chained = oracle_pairs.walked(start.reshape(3, -1), oracle_pairs.dense_affinity(features, 5), 8, steps)
    expected = oracle_pairs.enlarged(chained.reshape(start.shape), stride)[:, :height, :width]
    found = random_walk(torch.from_numpy(maps), affinities(torch.from_numpy(features)), steps=steps, stride=stride)
    np.testing.assert_allclose(found, expected, atol=5e-7)


def test_a_map_spreads_inside_its_region_and_not_across_its_edge():
    features = torch.zeros(1, 8, 8)
    features[:, :, 4:] = 3
    maps = torch.zeros(2, 64, 64)
    maps[1, :16, :16] = 1
    maps[0] = 0.05
    found = random_walk(maps, affinities(features))
    assert found[1, 60, 4] > 0.08
    assert found[1, :, 48:].max() < 1e-4


def test_affinities_of_another_grid_are_refused():
    with pytest.raises(ValueError, match=r"needed \(O, 5, 6\)"):
        random_walk(torch.zeros(2, 40, 41), torch.zeros(34, 5, 5))


def test_no_map_walks_to_no_map():
    assert random_walk(torch.zeros(0, 20, 21), torch.zeros(34, 3, 3)).shape == (0, 20, 21)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_maps_in_less_than_single_precision_are_refused(dtype):
    with pytest.raises(ValueError, match="maps: "):
        random_walk(torch.zeros(2, 20, 21, dtype=dtype), torch.zeros(34, 3, 3))


def test_presets_hold_the_published_numbers():
    psa, irn, paper = (PRESETS[name] for name in ("psa", "irn", "paper-003"))
    assert (psa.beta, psa.steps, psa.alpha, psa.radius, psa.stride, psa.background) == (8, 256, 16, 5, 8, None)
    assert (irn.beta, irn.steps, irn.alpha, irn.radius, irn.stride, irn.background) == (10, 256, None, 5, 4, 0.25)
    assert (paper.beta, paper.steps) == (16, 8)


def test_constant_background_stands_against_the_global_maximum():
    maps = torch.tensor([[[0.0, 2.0]], [[4.0, 0.5]]])
    expected = torch.tensor([[[0.25, 0.25]], [[0.0, 0.5]], [[1.0, 0.125]]])
    assert torch.equal(with_constant_background(maps), expected)
    assert torch.equal(with_constant_background(torch.zeros(1, 2, 2), 0.3)[:, 0, 0], torch.tensor([0.3, 0.0]))
    assert with_constant_background(torch.zeros(0, 2, 2)).shape == (1, 2, 2)


@pytest.mark.gpu
def test_cuda_gives_the_same_maps():
    rng = np.random.default_rng(0)
    maps, features = (
        torch.from_numpy(rng.uniform(0, 1, (4, 150, 213))).float(),
        torch.from_numpy(rng.normal(size=(8, 19, 27))).float(),
    )
    results = [random_walk(maps.to(device), affinities(features.to(device))).cpu() for device in ("cpu", "cuda")]
    torch.testing.assert_close(*results, rtol=0, atol=1e-4)
    assert torch.equal(results[0].argmax(0), results[1].argmax(0))
