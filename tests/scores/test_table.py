import io
import json

import numpy as np
import pytest
from rich.console import Console

from tests.scores.test_segmentation import random_maps, random_masks, score_maps, score_masks
from xseg.scores.table import print_table, report, segmentation_run


def run_of(score, **options):
    return segmentation_run(score.result(replicates=50), **{"split": "val", "labels_given": True, **options})


def printed(runs, width=120):
    out = io.StringIO()
    print_table(runs, Console(file=out, width=width))
    return out.getvalue()


def test_one_run_is_one_object_with_the_agreed_keys_and_no_nan():
    run = run_of(score_masks(random_masks(0)))
    wanted = "protocol split images missing labels_given classes miou per_class_iou background_threshold best"
    assert set(wanted.split()) | {"pixel_accuracy"} <= set(run)
    assert run["classes"] == ["cat", "dog", "hat"]
    assert list(run["per_class_iou"]) == ["background", "cat", "dog", "hat"]
    assert run["per_class_iou"]["hat"] is None
    assert run["background_threshold"] is run["best"] is None
    assert json.loads(json.dumps(run, allow_nan=False)) == run
    assert report([("seed.h5", run)])["miou"] == run["miou"]
    assert "runs" not in report([("seed.h5", run)])


def test_a_run_of_unknown_truth_only_is_still_json():
    blank = (np.ones((2, 2), np.uint8), np.full((2, 2), 255, np.uint8))
    run = run_of(score_masks([blank]))
    assert run["miou"] is None
    json.dumps(run, allow_nan=False)


def test_a_swept_run_keeps_fixed_tuned_and_best_apart():
    score = score_maps(random_maps(0), threshold=0.3)
    run = run_of(score, tuned_on="tune")
    assert (run["background_threshold"], run["tuned_on"]) == (0.3, "tune")
    assert set(run["best"]) >= {"background_threshold", "miou"}
    assert len(run["sweep"]) == 100
    json.dumps(run, allow_nan=False)


def test_several_runs_are_listed_with_their_inputs():
    runs = [("a.h5", run_of(score_maps(random_maps(0)))), ("b.h5", run_of(score_masks(random_masks(0))))]
    whole = report(runs)
    assert set(whole) == {"protocol", "runs"}
    assert [run["input"] for run in whole["runs"]] == ["a.h5", "b.h5"]
    with pytest.raises(ValueError, match="protocols"):
        report([*runs, ("c.h5", {"protocol": "perturbation"})])
    with pytest.raises(ValueError, match="protocols"):
        report([])


def test_the_table_shows_runs_side_by_side():
    tuned = run_of(score_maps(random_maps(0), threshold=0.3), tuned_on="tune")
    masks = run_of(score_masks(random_masks(0)), labels_given=False)
    text = printed([("seed", tuned), ("[red]masks", masks)])
    assert "[red]masks" in text
    assert "0.3 tuned on tune" in text
    assert "argmax" in text
    assert f"{tuned['miou']:.3f}" in text
    assert f"{masks['miou']:.3f}" in text
    assert f"{tuned['best']['miou']:.3f}" in text
    assert next(line for line in text.splitlines() if "hat" in line).rstrip(" │").endswith("-")


def test_the_best_rows_are_left_out_where_nothing_was_swept():
    assert "best" not in printed([("masks", run_of(score_masks(random_masks(0))))])


def test_long_names_stay_inside_a_narrow_console():
    runs = [("a/very/long/path/to/some/heatmaps.h5" * 2, run_of(score_masks(random_masks(0))))]
    assert max(len(line) for line in printed(runs, width=60).splitlines()) <= 60
