import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.affinity.oracle_pairs import all_pairs
from xseg.affinity.pairs import half_offsets, pair_labels, reach, windows


def pairs_of(height, width, radius, border="all"):
    offsets = half_offsets(radius)
    for index, first, second in windows(height, width, radius, border):
        grid = np.stack(np.mgrid[:height, :width], -1)
        for here, there in zip(grid[first].reshape(-1, 2), grid[second].reshape(-1, 2), strict=True):
            assert tuple(there - here) == offsets[index]
            yield tuple(here), tuple(there)


def test_radius_five_has_the_published_34_offsets_in_the_published_order(shared):
    with np.load(shared("reference/fixtures/psa_pairs.npz")) as file:
        np.testing.assert_array_equal(half_offsets(5), file["offsets_dy_dx"])


@pytest.mark.parametrize(("radius", "count"), [(1.2, 2), (2, 4), (5, 34), (10, 152)])
def test_offsets_of_other_radii_fill_half_the_disc(radius, count):
    assert len(half_offsets(radius)) == count


@pytest.mark.parametrize("radius", [1, 0, -3, float("nan"), float("inf")])
def test_a_radius_without_pairs_is_refused(radius):
    with pytest.raises(ValueError, match="radius"):
        reach(radius)


def test_an_unknown_border_is_refused():
    with pytest.raises(ValueError, match="border"):
        list(windows(9, 9, 5, "wrap"))


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 11),
    width=st.integers(1, 11),
    radius=st.sampled_from([1.5, 2, 3, 5]),
    border=st.sampled_from(["all", "psa"]),
)
def test_windows_list_every_pair_once_on_any_grid(height, width, radius, border):
    found = list(pairs_of(height, width, radius, border))
    margin = reach(radius) if border == "psa" else 0
    assert len(found) == len(set(found))
    assert set(found) == set(all_pairs(height, width, radius, margin))


def test_psa_border_has_2496_first_nodes_on_a_56_grid_and_drops_a_seventh_of_the_pairs():
    sizes = {
        (first[0].stop - first[0].start) * (first[1].stop - first[1].start) for _, first, _ in windows(56, 56, 5, "psa")
    }
    assert sizes == {2496}
    count = {border: sum((f[0].stop - f[0].start) * (f[1].stop - f[1].start) for _, f, _ in windows(56, 56, 5, border))
             for border in ("all", "psa")}  # fmt: skip
    assert 1 - count["psa"] / count["all"] == pytest.approx(0.144, abs=0.001)


@pytest.mark.parametrize("size", [20, 56])
def test_pair_labels_reproduce_the_published_ones_in_psa_border_mode(shared, size):
    with np.load(shared("reference/fixtures/psa_pairs.npz")) as file:
        label = torch.from_numpy(file[f"label_{size}"])[None]
        expected = [file[f"{name}_{size}"].astype(bool) for name in ("bg_pos", "fg_pos", "neg")]
    for mask, wanted in zip(pair_labels(label, 5, "psa"), expected, strict=True):
        assert int(mask.sum()) == wanted.sum()
        np.testing.assert_array_equal(mask[0, :, : size - 4, 4 : size - 4].flatten(1), wanted)


def test_every_known_pair_has_exactly_one_label_and_unknown_nodes_have_none():
    labels = torch.from_numpy(np.random.default_rng(0).choice([0, 1, 2, 255], (2, 9, 7)))
    masks = pair_labels(labels, 3)
    for image in range(2):
        for (y, x), (v, u) in all_pairs(9, 7, 3):
            here, there = int(labels[image, y, x]), int(labels[image, v, u])
            index = half_offsets(3).index((v - y, u - x))
            known = 255 not in (here, there)
            expected = [known and here == there == 0, known and here == there != 0, known and here != there]
            assert [bool(mask[image, index, y, x]) for mask in masks] == expected
    valid = sum(255 not in (int(labels[i][a]), int(labels[i][b])) for i in range(2) for a, b in all_pairs(9, 7, 3))
    assert sum(int(mask.sum()) for mask in masks) == valid


def test_another_unknown_id_can_be_named():
    masks = pair_labels(torch.tensor([[[65535, 255, 255]]], dtype=torch.int32), 2, ignore=65535)
    assert [int(mask.sum()) for mask in masks] == [0, 1, 0]


def test_labels_of_one_class_only_make_no_negative_pair():
    masks = pair_labels(torch.ones(1, 6, 6, dtype=torch.uint8))
    assert not masks.background.any()
    assert not masks.negative.any()
    assert masks.foreground.any()


@pytest.mark.gpu
def test_cuda_gives_the_same_pair_labels():
    labels = torch.from_numpy(np.random.default_rng(1).choice([0, 1, 2, 255], (2, 13, 9)))
    for here, there in zip(pair_labels(labels), pair_labels(labels.cuda()), strict=True):
        assert torch.equal(here, there.cpu())
