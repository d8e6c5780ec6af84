import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.features import oracle_neighbours as oracle
from xseg.features.neighbours import COPY, Block, nearest


def bank(vectors, cuts=(), order=None, sources=None):
    """The vectors as blocks, cut at some places and in some order."""
    count = len(vectors)
    files = np.array(sources or [f"file{k}" for k in range(count)])
    at = np.arange(count) if order is None else np.array(order)
    for part in np.split(at, sorted(cuts)):
        yield Block(part, [f"image{k}" for k in part], files[part].tolist(), vectors[part])


def found(queries, blocks, ids=None, sources=None):
    count = len(queries)
    names, files = ids or [f"other{k}" for k in range(count)], sources or [f"elsewhere{k}" for k in range(count)]
    return [None if near is None else near.index for near in nearest(queries, names, files, blocks)]


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 30), st.integers(1, 9), st.integers(0, 999), st.data())
def test_the_search_finds_what_brute_force_in_double_precision_finds(count, width, seed, data):
    random = np.random.default_rng(seed)
    # small whole numbers make many ties, the shift makes float32 distances useless
    vectors = (random.integers(0, 3, (count, width)) + 4096).astype(np.float32)
    vectors[: count // 2] += random.random((count // 2, width), np.float32) * 1e-2
    cuts = data.draw(st.lists(st.integers(0, count), max_size=4))
    order = data.draw(st.permutations(range(count)))
    copies = [
        {other for other in range(count) if np.linalg.norm(np.float64(vectors[k]) - vectors[other]) <= COPY
         * np.linalg.norm(np.float64(vectors[k]))} for k in range(count)
    ]  # fmt: skip
    expected = [oracle.nearest(vectors[k], vectors, copies[k] | {k}) for k in range(count)]
    ids = [f"image{k}" for k in range(count)]
    assert found(vectors, bank(vectors, cuts, order), ids) == expected


def test_distance_vector_and_name_are_those_of_the_neighbour():
    vectors = np.array([[0, 0], [3, 4], [30, 40]], np.float32)
    near = nearest(vectors[:1], ["image0"], ["x"], bank(vectors))[0]
    assert (near.index, near.id, near.distance, near.vector.tolist()) == (1, "image1", 5.0, [3, 4])


def test_of_equally_near_ones_the_first_of_the_work_list_counts_whatever_the_blocks():
    vectors = np.array([[9, 0], [0, 1], [1, 0], [0, -1]], np.float32)
    for cuts, order in (((), None), ((1, 2, 3), [3, 2, 1, 0]), ((2,), [2, 3, 0, 1])):
        assert found(np.zeros((1, 2), np.float32), bank(vectors, cuts, order)) == [1]


def test_the_image_itself_is_left_out_by_its_name_by_its_file_and_by_its_vector():
    query = np.array([[1, 1]], np.float32)
    vectors = np.array([[1, 1.1], [1, 1.2], [1, 1], [1, 2]], np.float32)
    vectors[2] += 1e-6  # what another batch size makes of it
    assert found(query, bank(vectors), sources=["nowhere"]) == [0]
    assert found(query, bank(vectors), ids=["image0"]) == [1]
    assert found(query, bank(vectors, sources=["a", "b", "c", "d"]), ["image0"], ["b"]) == [3]


def test_a_bank_without_another_picture_has_no_neighbour():
    same = np.ones((3, 4), np.float32)
    assert found(same[:1], bank(same[:1]), ["image0"]) == [None]
    assert found(same[:1], bank(same)) == [None]
    assert found(same[:1], []) == [None]
    assert found(same[:1], bank(2 * same[:1])) == [0]


def test_vectors_of_another_length_are_refused():
    with pytest.raises(ValueError, match="vectors"):
        found(np.ones((1, 3), np.float32), bank(np.ones((2, 4), np.float32)))
