import numpy as np
import pytest

from xseg.scores.map_comparison import MEASURES, SeenMap
from xseg.scores.sanity import StageScore, compare_all, stored_difference


def test_a_stage_averages_maps_within_an_image_then_images_and_counts_what_is_undefined():
    score = StageScore("fc", 12)
    maps = np.random.default_rng(0).standard_normal((3, 50, 50))
    seen = [SeenMap.of(one) for one in maps]
    score.add("a", compare_all(seen, maps))
    score.add("b", compare_all(seen[:1], -maps[:1]))
    score.add("c", compare_all(seen[:1], np.zeros((1, 50, 50))))
    result = score.result(20, 0)
    assert (result["stage"], result["redrawn"]) == ("fc", 12)
    assert result["spearman"] == pytest.approx(0)  # 1 of image a and -1 of b; c has none
    assert result["spearman_absolute"] == pytest.approx(1)
    assert result["undefined"] == {"spearman": 1, "spearman_absolute": 1, "ssim": 0, "hog": 1}
    assert all(len(result[f"{name}_interval"]) == 2 for name in MEASURES)


def test_the_difference_from_stored_maps_is_relative_to_each_map():
    maps = np.stack([np.full((2, 2), 100.0), np.full((2, 2), 0.01), np.zeros((2, 2))])
    again = maps.copy()
    again[1, 0, 0] = 0.009
    assert stored_difference(maps, maps) == 0
    assert stored_difference(maps, again) == pytest.approx(0.1)
    assert stored_difference(maps, maps[:, :1]) == np.inf
    again[2, 0, 0] = np.nan
    assert stored_difference(maps, again) == np.inf
    assert stored_difference(maps[:0], maps[:0]) == 0
