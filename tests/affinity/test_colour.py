"""Affinity by colour."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xseg.affinity.colour import colour_affinities, node_colours
from xseg.affinity.pairs import half_offsets


@settings(max_examples=25, deadline=None)
@given(height=st.integers(1, 19), width=st.integers(1, 19), stride=st.integers(1, 5), seed=st.integers(0, 99))
def test_every_pair_has_the_distance_of_its_mean_colours(height, width, stride, seed):
    image = np.random.default_rng(seed).random((3, height, width))
    rows, columns = -(-height // stride), -(-width // stride)
    means = np.array(
        [
            [
                image[:, y * stride : (y + 1) * stride, x * stride : (x + 1) * stride].mean((1, 2))
                for x in range(columns)
            ]
            for y in range(rows)
        ]
    )
    np.testing.assert_allclose(node_colours(torch.tensor(image), stride).permute(1, 2, 0).numpy(), means, atol=1e-12)
    found = colour_affinities(torch.tensor(image), 3.0, stride, 3).numpy()
    for index, (dy, dx) in enumerate(half_offsets(3)):
        for y in range(rows):
            for x in range(columns):
                inside = y + dy < rows and 0 <= x + dx < columns
                there = means[y + dy, x + dx] if inside else None
                expected = np.exp(-3 * np.linalg.norm(means[y, x] - there)) if inside else 0
                assert abs(found[index, y, x] - expected) < 1e-12


def test_equal_colours_hold_together_and_weight_zero_says_nothing():
    flat = torch.full((3, 16, 16), 0.3)
    pairs = colour_affinities(flat, 50.0, 4)
    assert set(pairs.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(colour_affinities(torch.rand(3, 16, 16), 0.0, 4), pairs)
