import io
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from tests.artifacts.build import encoded
from tests.classifier.nets import MODEL
from tests.scores.conftest import runtime
from xseg.artifacts.decode import Part
from xseg.artifacts.header import Header
from xseg.classifier.step import ModelOptions, load_classifier, train
from xseg.errors import BadInput, CannotCreate, Status, Stopped, UsageError
from xseg.heatmaps.step import ExplainOptions, explain
from xseg.scores.perturb_image import Perturbation, Subject
from xseg.scores.perturbation import curve_named
from xseg.scores.perturbation_step import PerturbationOptions, evaluate_perturbation
from xseg.scores.table import print_table

FRAME = (40, 48)


def score(made, *names, dataset=None, told=None, classifier=None, **options):
    options = PerturbationOptions(classifier or made.cls, **{"replicates": 20, "frame": FRAME, **options})
    return evaluate_perturbation(list(names), dataset, options, told or runtime())


def records_of(path):
    with Part(path, str(path)) as part:
        return part.header, list(part.records())


def rewritten(path, change, made, name="cam"):
    header, records = records_of(made.directory / f"{name}.h5")
    path.write_bytes(encoded([change(k, one) for k, one in enumerate(records)], header))
    return str(path)


def test_the_result_is_the_mean_over_the_stored_maps_of_each_image(made):
    result, rows, status = score(made, made.cam)
    assert status == Status.OK
    assert rows[0][0] == result["input"] == made.cam
    _, _, classifier = load_classifier(made.cls, torch.device("cpu"))
    curves = [curve_named("positive"), curve_named("negative")]
    perturbation, found, maps = Perturbation(classifier, curves, FRAME), [], 0
    for record in records_of(made.cam)[1]:
        class_id = record.arrays["maps/class_id"]
        if len(class_id):
            image = made.dataset.read_image(made.dataset.by_id[record.id])
            subject = Subject((record.id,), image, record.arrays["maps"], class_id, record.labels)
            found.append([one.hits["positive"] for one in perturbation.readings(subject, "labels")])
            maps += len(class_id)
    means = np.mean([np.mean(some, axis=0) for some in found], axis=0)
    assert result["curves"]["positive"] == pytest.approx(means.tolist())
    assert result["auc_positive"] == pytest.approx(np.trapezoid(means, dx=0.1))
    assert (result["images"], result["maps"]) == (len(found), maps)
    assert result["images"] + result["images_without_map"] == len(made.dataset)
    low, high = result["auc_positive_interval"]
    assert low <= result["auc_positive"] <= high
    expected = {
        "protocol": "perturbation", "split": None, "missing": 0, "activation": "sigmoid", "frame": list(FRAME),
        "fill": "black", "score_against": "labels", "method": "cam", "labels_given": True,
        "steps": {curve.name: list(curve.shares) for curve in curves}, "differences": [],
    }  # fmt: skip
    assert {name: result[name] for name in expected} == expected
    json.dumps(result, allow_nan=False)


def test_the_frame_is_the_classifiers_input_size_if_none_is_named(made):
    _, _, classifier = load_classifier(made.cls, torch.device("cpu"))
    result, _, _ = score(made, made.random, frame=None, told=runtime(limit=1))
    assert result["frame"] == list(classifier.config.input_size)


def test_every_curve_can_be_measured(made):
    names = ("insertion", "deletion", "road-morf", "road-lerf")
    result, rows, _ = score(made, made.cam, curves=names, steps=4, told=runtime(limit=3))
    assert result["steps"]["insertion"] == [0, 0.25, 0.5, 0.75, 1]
    assert result["fill"] is None
    assert result["fills"] == {"insertion": "window", "deletion": "mean", "road-morf": "road", "road-lerf": "road"}
    assert result["curves"]["insertion"][-1] == pytest.approx(result["curves"]["deletion"][0])
    assert set(result["probability_curves"]) == {"road-morf", "road-lerf"}
    out = io.StringIO()
    print_table(rows, Console(file=out, width=120))
    assert "ROAD (LeRF - MoRF) / 2" in out.getvalue()
    assert f"{result['auc_deletion']:.3f}" in out.getvalue()


def test_what_nothing_measured_uses_is_refused(made):
    for options, told in (
        ({"curves": ("insertion",), "fill": "mean"}, "--fill"),
        ({"curves": ("insertion", "deletion"), "score_against": "labels"}, "--score-against"),
        ({"steps": 10}, "--steps"),
    ):
        with pytest.raises(UsageError, match=f"{told}: not used by"):
            score(made, made.cam, **options)


def test_several_runs_share_clean_passes_and_are_compared_image_by_image(made, tmp_path, monkeypatch):
    asked = []
    logits = Perturbation._logits
    monkeypatch.setattr(Perturbation, "_logits", lambda self, x: (asked.append(len(x)), logits(self, x))[1])
    path = tmp_path / "scores.h5"
    told = runtime(path)
    result, rows, _ = score(made, made.cam, made.random, made.rough, told=told)
    cam, random, rough = result["runs"]
    assert sum(asked) == len(made.dataset) + 18 * sum(run["maps"] for run in result["runs"])
    assert rough["maps"] == 3 * len(made.dataset)
    (apart,) = random["differences"]
    assert apart["input"] == made.cam
    assert apart["images"] == cam["images"]
    assert apart["auc_positive"] == pytest.approx(random["auc_positive"] - cam["auc_positive"])
    assert [one["input"] for one in rough["differences"]] == [made.cam, made.random]
    assert score(made, made.cam, made.random, made.rough, told=runtime(path))[0] == result  # as stored
    out = io.StringIO()
    print_table(rows, Console(file=out, width=200))
    assert "minus the first" in out.getvalue()
    assert f"{apart['auc_negative']:.3f}" in out.getvalue()


def test_maps_of_predicted_and_of_labelled_classes_are_scored_apart_in_one_pass(made, tmp_path, monkeypatch):
    explain(made.cls, made.dataset, ExplainOptions("cam", targets="labels"), runtime(tmp_path / "labels.h5"))
    alone, _, _ = score(made, str(tmp_path / "labels.h5"))
    every = tmp_path / "all.h5"
    explain(made.cls, made.dataset, ExplainOptions("cam", targets="all"), runtime(every))
    asked = []
    logits = Perturbation._logits
    monkeypatch.setattr(Perturbation, "_logits", lambda self, x: (asked.append(len(x)), logits(self, x))[1])
    result, rows, _ = score(made, str(every), made.random, maps_of=("predicted", "labels"))
    predicted, labels, _, random = result["runs"]
    assert [name for name, _ in rows][:2] == [f"{every} (predicted)", f"{every} (labels)"]
    assert [predicted["maps_of"], labels["maps_of"]] == ["predicted", "labels"]
    for key in ("curves", "maps", "images", "images_without_map", "auc_positive_interval"):
        assert labels[key] == alone[key]
    monkeypatch.undo()
    _, _, classifier = load_classifier(made.cls, torch.device("cpu"))
    perturbation, found, union = Perturbation(classifier, [curve_named("positive")], FRAME), 0, 0
    for record in records_of(every)[1]:
        image = made.dataset.read_image(made.dataset.by_id[record.id])
        class_id = record.arrays["maps/class_id"]
        chosen = perturbation.predicted(Subject((record.id,), image, record.arrays["maps"], class_id, None))
        found += int(chosen.sum())
        union += int((chosen | (record.labels == 1)).sum())
    assert predicted["maps"] == found
    assert sum(asked) == len(made.dataset) + 18 * (
        union + labels["maps"]
    )  # random: its labels, whose classes these are
    assert random["images"] == labels["images"]
    assert [one["input"] for one in random["differences"]] == [f"{every} (labels)"]
    out = io.StringIO()
    print_table(rows, Console(file=out, width=240))
    assert "maps of" in out.getvalue()


def test_a_run_without_any_score_leaves_those_beside_it_theirs(made, tmp_path):
    unlabelled = replace(made.dataset, items=tuple(replace(item, labels=()) for item in made.dataset.items))
    empty, out = str(tmp_path / "bare.h5"), tmp_path / "scores.h5"
    explain(made.cls, unlabelled, ExplainOptions("cam", targets="labels"), runtime(tmp_path / "bare.h5"))
    told = runtime(out)
    result, rows, status = score(made, empty, made.cam, told=told, picture=tmp_path / "c.png")
    assert status == Status.SOME_FAILED
    assert [run["input"] for run in result["runs"]] == [name for name, _ in rows] == [made.cam]
    assert list(result["unscored"]) == [empty]
    assert any(note.startswith(f"failed: {empty}: no image could be scored") for note in told.reporter.notes)
    again = score(made, empty, made.cam, told=runtime(out, overwrite=True), picture=tmp_path / "c.png")
    assert again[0] == result  # which is made again, not taken as complete
    assert again[2] == Status.SOME_FAILED
    with pytest.raises(BadInput, match=r"bare.h5: no image could be scored"):
        score(made, empty)


def test_maps_of_labels_need_labels_even_if_predictions_judge(made, tmp_path):
    nobody = rewritten(tmp_path / "none.h5", lambda _, one: replace(one, labels=np.full(3, 255, np.uint8)), made)
    with pytest.raises(BadInput, match="no image could be scored: 10 failed"):
        score(made, nobody, maps_of=("labels",), score_against="predicted")


def test_the_curves_are_drawn(made, tmp_path):
    path = tmp_path / "curves.png"
    for names in ((made.cam,), (made.cam, made.random)):
        score(made, *names, picture=path, told=runtime(limit=2, overwrite=True))
        with Image.open(path) as picture:
            assert picture.width > 600
            colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 20)}
            assert ((213, 94, 0) in colours) == (len(names) == 2)
    score(made, made.cam, made.random, picture=path, told=runtime(limit=2))  # the same again
    with pytest.raises(CannotCreate, match="not a picture of this run"):
        score(made, made.cam, picture=path)
    with pytest.raises(UsageError, match=r"ends in .png"):
        score(made, made.cam, picture=tmp_path / "curves.jpg")
    taken = tmp_path / "cam.png"
    shutil.copy(made.cam, taken)
    for told in (runtime(limit=2, overwrite=True), runtime(taken, limit=2, overwrite=True)):
        with pytest.raises(UsageError, match=r"is an input or the output of this command"):
            score(made, str(taken) if told.target.path is None else made.cam, picture=taken, told=told)
    with pytest.raises(CannotCreate, match="no such directory"):
        score(made, made.cam, picture=tmp_path / "nowhere" / "curves.png")


def test_heatmaps_of_another_classifier_are_scored_with_a_remark(made):
    for classifier, remarks in ((made.cls, 0), (made.other, 1)):
        told = runtime(limit=2)
        score(made, made.cam, classifier=classifier, told=told)
        assert len([note for note in told.reporter.notes if "not made directly by" in note]) == remarks


def test_maps_that_tie_are_remarked(made, tmp_path):
    def flat(_, record):
        maps = np.ones_like(record.arrays["maps"])
        return replace(record, arrays={**record.arrays, "maps": maps})

    told = runtime(limit=2)
    result, _, _ = score(made, rewritten(tmp_path / "flat.h5", flat, made), told=told)
    assert result["tie_fraction"] == 1
    assert any("100% of the pixels tie" in note for note in told.reporter.notes)


def test_a_background_is_left_out(made, tmp_path):
    def with_background(_, record):
        arrays = dict(record.arrays)
        count = len(arrays["maps/class_id"])
        arrays["maps"] = np.concatenate([arrays["maps"], np.ones((1, *record.size), arrays["maps"].dtype)])
        arrays["maps/class_id"] = np.concatenate([arrays["maps/class_id"], np.zeros(1, np.int32)])
        arrays["maps/scale"] = np.ones(count + 1, np.float32)
        return replace(record, arrays=arrays)

    plain, _, _ = score(made, made.cam)
    result, _, _ = score(made, rewritten(tmp_path / "walk.h5", with_background, made))
    assert {name: result[name] for name in plain if name != "input"} == {
        name: plain[name] for name in plain if name != "input"
    }


def test_images_without_known_labels_fail_alone_unless_predictions_count(made, tmp_path):
    def forgotten(number, record):
        return replace(record, labels=np.full(3, 255, np.uint8)) if number == 1 else record

    path = rewritten(tmp_path / "unknown.h5", forgotten, made)
    told = runtime()
    result, _, status = score(made, path, told=told)
    assert (status, result["missing"]) == (Status.SOME_FAILED, 1)
    assert any("its labels are not known" in note for note in told.reporter.notes)
    assert score(made, path, told=runtime(max_failures=1))[2] == Status.OK
    predicted, _, status = score(made, path, score_against="predicted")
    assert (status, predicted["missing"]) == (Status.OK, 0)
    assert predicted["curves"]["positive"][0] == 1
    named, _, status = score(made, path, dataset=made.dataset)
    assert (status, named["missing"]) == (Status.OK, 0)
    nobody = rewritten(tmp_path / "none.h5", lambda _, one: replace(one, labels=np.full(3, 255, np.uint8)), made)
    with pytest.raises(BadInput, match=r"no image could be scored: [0-9]+ failed"):
        score(made, nobody)
    assert score(made, nobody, curves=("deletion",), steps=2)[2] == Status.OK  # which nobody judges


def test_a_photograph_that_was_replaced_or_is_gone_fails_alone(made, tmp_path):
    changes = {0: {"source": "0" * 64}, 2: {"path": "gone.png"}}
    path = rewritten(tmp_path / "odd.h5", lambda number, one: replace(one, **changes.get(number, {})), made)
    told = runtime()
    result, _, status = score(made, path, told=told)
    assert (status, result["missing"]) == (Status.SOME_FAILED, 2)
    assert len([note for note in told.reporter.notes if note.startswith("failed: ")]) == 2


def test_images_may_be_limited_and_picked_by_a_data_set(made):
    assert score(made, made.random, told=runtime(limit=3))[0]["images"] <= 3
    last = replace(made.dataset, items=made.dataset.items[-4:])
    result, _, _ = score(made, made.random, dataset=last)
    assert (result["images"] + result["images_without_map"], result["split"]) == (4, "all")
    stranger = replace(last, items=(*last.items, replace(last.items[0], id="stranger")))
    with pytest.raises(BadInput, match="1 of 5 images"):
        score(made, made.random, dataset=stranger)
    assert score(made, made.random, dataset=stranger, told=runtime(allow_missing=True))[0]["missing"] == 1
    other = replace(made.dataset, classes=("x", *made.dataset.classes[1:]))
    with pytest.raises(BadInput, match="class 'x' is unknown to the classifier"):
        score(made, made.random, dataset=other)


def test_without_any_map_there_is_nothing_to_score(made, tmp_path):
    bare = replace(made.dataset, items=tuple(replace(item, labels=()) for item in made.dataset.items))
    explain(made.cls, bare, ExplainOptions("cam", targets="labels"), runtime(tmp_path / "none.h5"))
    with pytest.raises(BadInput, match="0 failed, 10 have no map"):
        score(made, str(tmp_path / "none.h5"))


def test_other_classes_and_kinds_are_refused(made, tmp_path):
    wide = replace(made.dataset, classes=(*made.dataset.classes, "more"))
    train(wide, ModelOptions(MODEL, "none"), None, None, runtime(tmp_path / "wide.h5"))
    with pytest.raises(BadInput, match="has other classes than the heatmaps"):
        score(made, made.cam, classifier=str(tmp_path / "wide.h5"))
    with pytest.raises(BadInput, match="holds classifier, this step needs heatmaps"):
        score(made, made.cls)
    with pytest.raises(UsageError, match="are '-'"):
        score(made, "-", classifier="-")


def test_the_run_is_that_of_what_decides_the_result(made, tmp_path):
    path = tmp_path / "scores.h5"
    few = {"limit": 2}
    score(made, made.cam, told=runtime(path, **few))
    score(made, made.cam, picture=tmp_path / "c.png", told=runtime(path, batch_size=5, **few))  # the same again
    for options in ({"fill": "mean"}, {"frame": (48, 48)}, {"score_against": "predicted"}, {"curves": ("positive",)}):
        with pytest.raises(CannotCreate, match="another run"):
            score(made, made.cam, told=runtime(path, **few), **options)
    with Part(path, "scores") as part:
        assert isinstance(part.header, Header)
        assert part.header.params["fill"] == "black"


def test_a_signal_ends_it_and_nothing_is_written(made, tmp_path):
    told = runtime(tmp_path / "scores.h5")
    told.stop.signal = 15
    with pytest.raises(Stopped):
        score(made, made.cam, told=told)
    assert list(tmp_path.iterdir()) == []


def test_what_was_measured_before_a_signal_is_kept_and_the_result_is_that_of_one_run(made, tmp_path, monkeypatch):
    path, asked = tmp_path / "scores.h5", []
    ask = Perturbation.readings

    def counted(self, subject, against):
        asked.append(subject.key[0])
        told.stop.signal = 15 if len(asked) == 7 else None
        return ask(self, subject, against)

    monkeypatch.setattr(Perturbation, "readings", counted)
    both = {"maps_of": ("predicted", "labels")}
    told = runtime()
    whole, *_ = score(made, made.cam, made.random, told=runtime(), **both)
    total, told = len(asked), runtime(path)
    asked.clear()
    with pytest.raises(Stopped, match=r"images are kept in .*scores.h5.journal"):
        score(made, made.cam, made.random, told=told, **both)
    assert [one.name for one in tmp_path.iterdir()] == ["scores.h5.journal"]
    with pytest.raises(CannotCreate, match="is not the journal of this run"):
        score(made, made.cam, told=runtime(path))
    told = runtime(path)
    resumed, *_ = score(made, made.cam, made.random, told=told, **both)
    assert len(asked) == total > 7
    assert resumed == whole
    assert any("measured already" in note for note in told.reporter.notes)
    assert [one.name for one in tmp_path.iterdir()] == ["scores.h5"]


def test_a_frame_that_a_transformer_cannot_take_is_refused_with_one_that_it_can(made, tmp_path):
    path = tmp_path / "vit.h5"
    train(made.dataset, ModelOptions("timm:test_vit2", "none"), None, None, runtime(path))
    with pytest.raises(UsageError, match="--frame 40x50: this model takes sides divisible by 16 and 16") as told:
        score(made, made.cam, classifier=str(path), frame=(40, 50))
    assert told.value.hint == "--frame 48x48"
