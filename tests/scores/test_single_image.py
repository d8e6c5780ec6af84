import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from xseg.scores.overlap import mean_over_classes
from xseg.scores.segmentation import SegmentationScore
from xseg.scores.single_image import image_ious

CLASSES = ("cat", "dog", "cow")


def by_sets(prediction, truth):
    """Oracle: sets of pixels, class by class."""
    known = {place for place, label in np.ndenumerate(truth) if label != 255}
    found = []
    for label in range(len(CLASSES) + 1):
        here = {place for place in known if prediction[place] == label}
        there = {place for place in known if truth[place] == label}
        found.append(len(here & there) / len(here | there) if here | there else np.nan)
    return found


@given(st.integers(0, 10_000))
def test_the_overlap_of_single_images_is_that_of_sets_of_pixels(seed):
    rng = np.random.default_rng(seed)
    score = SegmentationScore(CLASSES)
    expected = {}
    for k in range(3):
        prediction, truth = (rng.choice(np.array([0, 1, 2, 3, 255], np.uint8), (5, 6)) for _ in range(2))
        score.add_mask(prediction, truth, image=str(k))
        expected[str(k)] = by_sets(prediction, truth)
    found = image_ious(score.table())
    assert found.keys() == expected.keys()
    for image, values in found.items():
        np.testing.assert_allclose(values, expected[image])


def test_one_image_alone_has_the_score_of_its_set():
    rng = np.random.default_rng(0)
    score = SegmentationScore(CLASSES)
    score.add_mask(rng.integers(0, 3, (9, 9)), rng.integers(0, 3, (9, 9)), image="a")
    np.testing.assert_allclose(mean_over_classes(image_ious(score.table())["a"]), score.result(replicates=0).miou)
