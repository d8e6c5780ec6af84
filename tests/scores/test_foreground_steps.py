"""The steps of `imagenet-seg` and `voc-multilabel` on real artifacts."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from tests.artifacts.build_mat import write_mat
from tests.scores.conftest import runtime
from xseg.artifacts.decode import Part
from xseg.datasets import open_dataset
from xseg.errors import BadInput, CannotCreate, Status
from xseg.heatmaps.step import ExplainOptions, explain
from xseg.runs.shards import Shard
from xseg.scores.frame import maps_in_frame, truth_in_frame
from xseg.scores.imagenet_seg import ForegroundScore, foreground_truth
from xseg.scores.imagenet_seg_step import ForegroundOptions, evaluate_imagenet_seg
from xseg.scores.table import print_table
from xseg.scores.voc_multilabel import MultilabelScore
from xseg.scores.voc_multilabel_step import MultilabelOptions, evaluate_voc_multilabel

FRAME = (40, 30)


def foreground(made, *names, dataset=None, preset="agf", frame=FRAME, replicates=20, **options):
    asked = ForegroundOptions(preset, frame, replicates)
    return evaluate_imagenet_seg(list(names), dataset or made.dataset, asked, runtime(**options))


def multilabel(made, *names, dataset=None, frame=FRAME, replicates=20, **options):
    asked = MultilabelOptions(frame, replicates)
    return evaluate_voc_multilabel(list(names), dataset or made.dataset, asked, runtime(**options))


def records(path):
    with Part(path, "heatmaps") as part:
        return list(part.records())


def printed(rows):
    out = io.StringIO()
    print_table(rows, Console(file=out, width=200))
    return out.getvalue()


@pytest.fixture(scope="module")
def single(made):
    """How many images have one class."""
    count = sum(len(item.labels) == 1 for item in made.dataset.items)
    assert 2 <= count < len(made.dataset)
    return count


@pytest.mark.parametrize("frame", [FRAME, None])
@pytest.mark.parametrize(("name", "preset", "rule"), [
    ("cam", "agf", "positive"), ("random", "agf", "above-mean"), ("cam", "chefer", "above-mean"),
])  # fmt: skip
def test_the_images_of_one_class_are_scored_as_one_by_one(made, single, name, preset, rule, frame):
    path = getattr(made, name)
    result, rows, status = foreground(made, path, preset=preset, frame=frame)
    assert status == Status.OK
    score = ForegroundScore(rule)
    for record in records(path):
        item = made.dataset.by_id[record.id]
        if len(item.labels) == 1:
            truth = foreground_truth(truth_in_frame(made.dataset.read_mask(item), frame), item.labels[0], 255)
            score.add(*maps_in_frame(record, frame), truth, image=record.id)
    assert {**result, **score.result(replicates=20)} == result
    assert (result["images"], result["images_left_out"]) == (single, len(made.dataset) - single)
    assert (result["foreground"], result["preset"], result["labels_given"]) == (rule, preset, True)
    assert result["frame"] == ("image" if frame is None else list(frame))
    json.dumps(result, allow_nan=False)
    assert f"{result['ap_soft']:.3f}" in printed(rows)


def test_every_map_of_the_image_s_class_is_the_one_that_is_chosen_among_all(made):
    assert foreground(made, made.rough)[0]["maps_of_another_class"] == 0  # --targets all
    predicted = made.directory / "top1.h5"
    explain(made.cls, made.dataset, ExplainOptions("cam", targets="top1"), runtime(predicted))
    found = foreground(made, str(predicted))[0]
    by_id = made.dataset.by_id
    wrong = [r for r in records(predicted) if by_id[r.id].labels not in ((), tuple(r.arrays["maps/class_id"]))]
    assert found["maps_of_another_class"] == sum(len(by_id[r.id].labels) == 1 for r in wrong) > 0
    assert found["labels_given"] is False
    assert "maps of another class" in printed([("a", found)])


def test_a_data_set_without_labels_is_scored_whole_and_any_class_is_foreground(made):
    bare = replace(made.dataset, items=tuple(replace(item, labels=None) for item in made.dataset.items))
    predicted = made.directory / "bare.h5"
    explain(made.cls, made.dataset, ExplainOptions("cam", targets="top1", map_size="model"), runtime(predicted))
    renamed = replace(bare, classes=("x", "y", "z"))
    result, _, _ = foreground(made, str(predicted), dataset=renamed)
    assert (result["images"], result["images_left_out"]) == (len(bare), 0)
    score = ForegroundScore("above-mean")
    for record in records(predicted):
        truth = foreground_truth(truth_in_frame(bare.read_mask(bare.by_id[record.id]), FRAME), None, 255)
        score.add(*maps_in_frame(record, FRAME), truth, image=record.id)
    assert {**result, **score.result(replicates=20)} == result


def test_pairs_of_photographs_and_binary_masks(made, tmp_path):
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for item in made.dataset.items[:4]:
        Image.fromarray(made.dataset.read_image(item)).save(tmp_path / "images" / f"{item.id}.png")
        mask = made.dataset.read_mask(item)
        Image.fromarray(np.where(mask == 255, 255, mask > 0).astype(np.uint8)).save(
            tmp_path / "masks" / f"{item.id}.png"
        )
    pairs = open_dataset(tmp_path)
    assert pairs.classes == ("1",)
    path = tmp_path / "maps.h5"
    explain(made.cls, pairs, ExplainOptions("cam", targets="top1"), runtime(path))
    assert foreground(made, str(path), dataset=pairs)[0]["images"] == 4


def test_the_mat_goes_through_explain_and_evaluate(made, tmp_path):
    chosen = made.dataset.items[:5]
    masks = [(made.dataset.read_mask(item) % 255 > 0).astype(np.uint8) for item in chosen]
    images = [made.dataset.read_image(item) for item in chosen]
    mat = open_dataset(write_mat(tmp_path / "gtsegs.mat", pairs=list(zip(images, masks, strict=True))))
    path = tmp_path / "maps.h5"
    explain(made.cls, mat, ExplainOptions("cam", targets="top1"), runtime(path))
    found = records(path)
    assert [record.path for record in found] == [f"images/00000{k}.ppm" for k in range(5)]
    assert [record.size for record in found] == [image.shape[:2] for image in images]
    result, _, _ = foreground(made, str(path), dataset=mat)
    assert (result["images"], result["classes"]) == (5, ["foreground"])


def test_shards_together_equal_the_whole(made, tmp_path):
    options = ExplainOptions("cam", ("relu=false",))
    shards = [tmp_path / f"{k}.h5" for k in range(2)]
    for k, path in enumerate(shards):
        explain(made.cls, made.dataset, options, replace(runtime(path), shard=Shard(k, 2)))
    for evaluate in (foreground, multilabel):
        whole, parts = evaluate(made, made.cam)[0], evaluate(made, *map(str, reversed(shards)))[0]
        assert {**parts, "input": ""} == {**whole, "input": ""}


def test_maps_of_any_grid_score_alike(made):
    path = made.directory / "framed.h5"
    explain(made.cls, made.dataset, ExplainOptions("random", map_size=FRAME), runtime(path))
    stored = {record.id: record.arrays["maps"].astype(np.float32) for record in records(path)}
    for record in records(path):
        assert np.array_equal(maps_in_frame(record, FRAME)[0], stored[record.id])
    assert foreground(made, str(path))[0]["images"] > 0


@pytest.mark.parametrize("frame", [FRAME, None])
def test_multilabel_scores_all_images_as_one_by_one(made, frame):
    for name, signed in (("cam", True), ("random", False), ("rough", False)):
        path = getattr(made, name)
        result, rows, status = multilabel(made, path, frame=frame)
        assert status == Status.OK
        score = MultilabelScore(made.dataset.classes, signed)
        for record in records(path):
            truth = truth_in_frame(made.dataset.read_mask(made.dataset.by_id[record.id]), frame)
            score.add(*maps_in_frame(record, frame), truth, image=record.id)
        assert {**result, **score.result(replicates=20)} == result
        assert (result["images"], result["mean_subtracted"]) == (len(made.dataset), not signed)
        json.dumps(result, allow_nan=False)
        assert f"{result['ap']:.3f}" in printed(rows)


def test_multilabel_says_when_labels_were_given(made):
    told = runtime()
    evaluate_voc_multilabel([made.cam], made.dataset, MultilabelOptions(FRAME, 2), told)
    assert any("--targets predicted" in note for note in told.reporter.notes)


def test_several_runs_stand_side_by_side(made):
    for evaluate in (foreground, multilabel):
        result, rows, _ = evaluate(made, made.cam, made.random)
        assert [run["input"] for run in result["runs"]] == [made.cam, made.random]
        assert printed(rows).count("95 % interval") >= 2


@pytest.mark.parametrize("evaluate", [foreground, multilabel])
def test_the_artifact_is_told_again_and_not_replaced_by_another(made, tmp_path, evaluate):
    path = tmp_path / "scores.h5"
    first, _, _ = evaluate(made, made.cam, path=path)
    stamp = path.stat().st_mtime_ns
    again, _, status = evaluate(made, made.cam, path=path)
    assert (again, status, path.stat().st_mtime_ns) == (first, Status.OK, stamp)
    with pytest.raises(CannotCreate, match="another run"):
        evaluate(made, made.cam, path=path, frame=None)


@pytest.mark.parametrize("evaluate", [foreground, multilabel])
def test_images_that_fail_or_are_missing(made, evaluate):
    first = next(k for k, item in enumerate(made.dataset.items) if len(item.labels) == 1)
    items = tuple(replace(item, mask="no.png") if k == first else item for k, item in enumerate(made.dataset.items))
    result, _, status = evaluate(made, made.cam, dataset=replace(made.dataset, items=items))
    assert (status, result["missing"]) == (Status.SOME_FAILED, 1)
    stranger = (*made.dataset.items, replace(made.dataset.items[first], id="stranger"))
    with pytest.raises(BadInput, match="images of split all are not in the heatmaps"):
        evaluate(made, made.cam, dataset=replace(made.dataset, items=stranger))
    result, _, _ = evaluate(made, made.cam, dataset=replace(made.dataset, items=stranger), allow_missing=True)
    assert result["missing"] == 1


@pytest.mark.parametrize("evaluate", [foreground, multilabel])
def test_bad_inputs(made, evaluate):
    with pytest.raises(BadInput, match="holds classifier, this step needs heatmaps"):
        evaluate(made, made.cls)
    bare = tuple(replace(item, mask=None) for item in made.dataset.items)
    with pytest.raises(BadInput, match="masks are needed"):
        evaluate(made, made.cam, dataset=replace(made.dataset, items=bare))
    with pytest.raises(BadInput, match="other classes"):
        evaluate(made, made.cam, dataset=replace(made.dataset, classes=("x", *made.dataset.classes[1:])))


def test_foreground_needs_images_of_one_class(made):
    several = tuple(item for item in made.dataset.items if len(item.labels) != 1)
    with pytest.raises(BadInput, match="no image has exactly one class"):
        foreground(made, made.cam, dataset=replace(made.dataset, items=several))
