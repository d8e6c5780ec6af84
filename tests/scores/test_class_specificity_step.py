import io
import json
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from tests.scores.conftest import runtime
from xseg.artifacts.decode import Part
from xseg.errors import BadInput, CannotCreate, Status, Stopped
from xseg.runs.photographs import heatmaps_of
from xseg.scores.class_specificity import specificity
from xseg.scores.class_specificity_step import evaluate_class_specificity
from xseg.scores.table import print_table


def score(made, *names, dataset=None, replicates=20, **options):
    return evaluate_class_specificity(list(names), dataset or made.dataset, replicates, runtime(**options))


def test_the_result_is_the_mean_over_the_stored_maps(made):
    result, rows, status = score(made, made.cam)
    assert status == Status.OK
    assert rows[0][0] == result["input"] == made.cam
    found = []
    with Part(made.directory / "cam.h5", "cam") as part:
        for record in part.records():
            maps, ids = (one.numpy() for one in heatmaps_of(record))
            truth = made.dataset.read_mask(made.dataset.by_id[record.id])
            found.append(specificity(maps, ids, truth))
    held = [one for one in found if one is not None]
    assert result["images"] == len(held) >= 2
    assert result["images_with_fewer_classes"] == len(found) - len(held)
    for name in ("pearson", "spearman", "own_share", "share_difference"):
        assert result[name] == pytest.approx(np.mean([one.measures[name] for one in held]))
        assert len(result[f"{name}_interval"]) == 2
    assert (result["protocol"], result["split"], result["missing"]) == ("class-specificity", "all", 0)
    assert result["classes"] == list(made.dataset.classes)
    json.dumps(result, allow_nan=False)


def test_several_runs_stand_side_by_side_in_json_and_table(made):
    result, rows, _ = score(made, made.cam, made.random, made.rough)
    assert [run["input"] for run in result["runs"]] == [made.cam, made.random, made.rough]
    assert result["runs"][2]["maps_of_absent_classes"] > 0  # --targets all
    assert {json.dumps(run["uniform_map"]) for run in result["runs"]} == {json.dumps(rows[0][1]["uniform_map"])}
    out = io.StringIO()
    print_table([("[red]cam", rows[0][1]), *rows[1:]], Console(file=out, width=200))
    assert "[red]cam" in out.getvalue()
    for run in result["runs"]:
        assert f"{run['own_share']:.3f}" in out.getvalue()


def test_the_artifact_is_told_again_and_not_replaced_by_another(made, tmp_path):
    path = tmp_path / "scores.h5"
    first, _, _ = score(made, made.cam, path=path)
    stamp = path.stat().st_mtime_ns
    again, rows, status = score(made, made.cam, path=path)
    assert (again, status, path.stat().st_mtime_ns) == (first, Status.OK, stamp)
    assert rows == [(made.cam, again)]
    with pytest.raises(CannotCreate, match="another run"):
        score(made, made.cam, path=path, replicates=30)
    score(made, made.cam, path=path, replicates=30, overwrite=True)
    assert path.stat().st_mtime_ns != stamp


def test_images_that_are_missing_are_refused_or_counted(made):
    few = made.dataset.limited(4)
    result, _, _ = score(made, made.cam, dataset=few)
    assert result["images"] + result["images_with_fewer_classes"] == 4
    stranger = replace(made.dataset, items=(*made.dataset.items, replace(made.dataset.items[0], id="stranger")))
    with pytest.raises(BadInput, match="1 of 11 images of split all are not in the heatmaps"):
        score(made, made.cam, dataset=stranger)
    result, _, _ = score(made, made.cam, dataset=stranger, allow_missing=True)
    assert result["missing"] == 1


def test_a_mask_that_cannot_be_read_fails_its_image_only(made):
    items = tuple(replace(item, mask="nowhere.png") if k == 0 else item for k, item in enumerate(made.dataset.items))
    result, _, status = score(made, made.cam, dataset=replace(made.dataset, items=items))
    assert (status, result["missing"]) == (Status.SOME_FAILED, 1)


def test_bad_inputs(made):
    single = [item for item in made.dataset.items if len(np.unique(made.dataset.read_mask(item))) <= 2]
    with pytest.raises(BadInput, match="no image has maps of two classes"):
        score(made, made.cam, dataset=replace(made.dataset, items=tuple(single)))
    with pytest.raises(BadInput, match="holds classifier, this step needs heatmaps"):
        score(made, made.cls)
    bare = tuple(replace(item, mask=None) for item in made.dataset.items)
    with pytest.raises(BadInput, match="masks are needed"):
        score(made, made.cam, dataset=replace(made.dataset, items=bare))
    with pytest.raises(BadInput, match="other classes"):
        score(made, made.cam, dataset=replace(made.dataset, classes=("x", *made.dataset.classes[1:])))


def test_a_signal_ends_it_and_nothing_is_written(made, tmp_path):
    told = runtime(tmp_path / "scores.h5")
    told.stop.signal = 15
    with pytest.raises(Stopped):
        evaluate_class_specificity([made.cam], made.dataset, 10, told)
    assert list(tmp_path.iterdir()) == []
