import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console
from scipy import stats

from tests.artifacts.build import encoded, header, write
from tests.classifier.nets import MODEL
from tests.scores import oracle_maps as oracle
from tests.scores.conftest import runtime
from xseg.artifacts.decode import Part
from xseg.artifacts.header import Header, Parent
from xseg.classifier.settings import TrainSettings
from xseg.classifier.step import ModelOptions, load_classifier, train
from xseg.errors import BadInput, Status, Stopped, UsageError
from xseg.heatmaps import explain_images, methods
from xseg.heatmaps.step import ExplainOptions, explain
from xseg.scores.journal import Journal
from xseg.scores.map_comparison import MEASURES
from xseg.scores.recipe import recipe_of
from xseg.scores.sanity_step import SanityOptions, evaluate_sanity
from xseg.scores.table import print_table
from xseg.seeding import key_seed


def check(made, *names, dataset=None, told=None, classifier=None, **options):
    options = SanityOptions(classifier or made.cls, **{"replicates": 20, **options})
    return evaluate_sanity(list(names), dataset, options, told or runtime())


def maps_of(made, classifier, settings, limit=None):
    method = methods.create("cam", settings)
    items = [item for item in made.dataset.items[:limit] if item.labels]
    images, targets = [made.dataset.read_image(item) for item in items], [item.labels for item in items]
    return [one.maps for one in explain_images(classifier, method, images, targets, [item.id for item in items])]


def test_the_first_stage_equals_a_classifier_whose_head_is_reset_by_hand(made):
    result, _, status = check(made, made.cam, told=runtime(limit=4))
    assert status == Status.OK
    _, _, classifier = load_classifier(made.cls, torch.device("cpu"))
    before = maps_of(made, classifier, ["relu=false"], 4)
    torch.manual_seed(key_seed(0, "randomise", "5"))
    classifier.net[5].reset_parameters()
    after = maps_of(made, classifier, ["relu=false"], 4)
    by_image = []
    for one, other in zip(before, after, strict=True):
        pairs = list(zip(one, other, strict=True))
        by_image.append([
            np.mean([stats.spearmanr(a.ravel(), b.ravel()).statistic for a, b in pairs]),
            np.mean([stats.spearmanr(abs(a).ravel(), abs(b).ravel()).statistic for a, b in pairs]),
            np.mean([oracle.ssim(a / abs(a).max(), b / abs(b).max(), 2) for a, b in pairs]),
            np.mean([np.corrcoef(oracle.hog(a / abs(a).max()), oracle.hog(b / abs(b).max()))[0, 1] for a, b in pairs]),
        ])  # fmt: skip
    stage = result["stages"][0]
    assert (stage["stage"], stage["redrawn"]) == ("5", 16 * 3 + 3)
    assert [stage[name] for name in MEASURES] == pytest.approx(np.mean(by_image, axis=0).tolist(), abs=1e-5)
    assert result["images"] == len(by_image)
    assert result["maps"] == sum(map(len, before))
    assert result["stored_difference"] < 1e-3


def test_stages_cascade_or_stand_alone(made):
    cascading, _, _ = check(made, made.gradient)
    independent, _, _ = check(made, made.gradient, randomise="independent")
    assert [stage["stage"] for stage in cascading["stages"]] == ["5", "1", "0"]
    assert (cascading["randomised"], independent["randomised"]) == ("cascading", "independent")
    redrawn = [stage["redrawn"] for stage in independent["stages"]]
    assert [stage["redrawn"] for stage in cascading["stages"]] == np.cumsum(redrawn).tolist()
    assert cascading["stages"][0] == independent["stages"][0]
    assert cascading["stages"][2]["spearman"] != independent["stages"][2]["spearman"]
    for stage in cascading["stages"]:
        assert abs(stage["spearman"]) < 0.9
        assert sum(stage["undefined"][name] for name in MEASURES[:3]) == 0
    json.dumps(cascading, allow_nan=False)


def test_fewer_stages_are_spread_from_the_head_to_the_input(made):
    every, _, _ = check(made, made.gradient)
    two, _, _ = check(made, made.gradient, stages=2)
    assert two["stages"] == [every["stages"][0], every["stages"][-1]]
    assert check(made, made.gradient, stages=9)[0]["stages"] == every["stages"]


def test_a_method_that_looks_at_no_model_is_the_floor_of_one(made):
    result, _, _ = check(made, made.random)
    assert result["needs_model"] is False
    for stage in result["stages"]:
        assert [stage[name] for name in MEASURES] == pytest.approx([1, 1, 1, 1])


def test_every_recorded_option_is_used_again(made):
    for name in ("gradient", "rough"):
        result, _, _ = check(made, getattr(made, name))
        assert result["stored_difference"] < 5e-3, name
    assert result["maps"] == 3 * len(made.dataset)  # targets as stored: all classes
    assert result["settings"] == {"relu": True, "sqrt": False}


def test_maps_that_come_out_otherwise_are_told(made, tmp_path):
    with Part(made.directory / "cam.h5", "cam") as part:
        original, records = part.header, list(part.records())
    scaled = [replace(one, arrays={**one.arrays, "maps": one.arrays["maps"][..., ::-1].copy()}) for one in records]
    (tmp_path / "odd.h5").write_bytes(encoded(scaled, original))
    told = runtime()
    result, _, _ = check(made, str(tmp_path / "odd.h5"), told=told)
    assert result["stored_difference"] > 0.01
    assert any("differ from the stored ones" in note for note in told.reporter.notes)


def test_images_may_be_limited_and_picked_by_a_data_set(made):
    assert check(made, made.cam, told=runtime(limit=3))[0]["images"] <= 3
    last = replace(made.dataset, items=made.dataset.items[-4:])
    result, _, _ = check(made, made.cam, dataset=last)
    assert result["images"] == sum(bool(item.labels) for item in last.items)
    assert result["split"] == "all"
    stranger = replace(last, items=(*last.items, replace(last.items[0], id="stranger")))
    with pytest.raises(BadInput, match="1 of 5 images"):
        check(made, made.cam, dataset=stranger)


def test_the_batch_size_changes_nothing(made):
    one, _, _ = check(made, made.gradient)
    many, _, _ = check(made, made.gradient, told=runtime(batch_size=4))
    for first, second in zip(one["stages"], many["stages"], strict=True):
        assert [first[name] for name in MEASURES] == pytest.approx([second[name] for name in MEASURES], abs=1e-3)


def test_several_runs_share_a_table_and_an_artifact(made, tmp_path):
    path = tmp_path / "scores.h5"
    result, rows, _ = check(made, made.cam, made.random, told=runtime(path))
    assert [run["method"] for run in result["runs"]] == ["cam", "random"]
    assert check(made, made.cam, made.random, told=runtime(path))[0] == result
    out = io.StringIO()
    print_table(rows, Console(file=out, width=200))
    assert "random (no model)" in out.getvalue()
    assert f"{result['runs'][0]['stages'][1]['ssim']:.3f}" in out.getvalue()


def test_random_labels_compare_two_classifiers(made):
    result, _, _ = check(made, made.cam, random_labels=made.other)
    assert result["randomised"] == "labels"
    (stage,) = result["stages"]
    assert (stage["stage"], stage["redrawn"]) == ("labels", None)
    networks = [load_classifier(path, torch.device("cpu"))[2] for path in (made.cls, made.other)]
    pairs = zip(*(maps_of(made, network, ["relu=false"]) for network in networks), strict=True)
    expected = [
        np.mean([stats.spearmanr(a.ravel(), b.ravel()).statistic for a, b in zip(one, other, strict=True)])
        for one, other in pairs
    ]
    assert stage["spearman"] == pytest.approx(np.mean(expected), abs=1e-6)


def test_a_classifier_that_learned_true_labels_is_remarked(made, tmp_path):
    quick = TrainSettings(epochs=1, batch_size=5, crop=32, resize_low=32, resize_high=40)
    path = tmp_path / "permuted.h5"
    train(made.dataset, ModelOptions(MODEL, "none"), quick, None, runtime(path), random_labels=True)
    for random_labels, remarks in ((str(path), 0), (made.other, 1)):
        told = runtime(limit=1)
        check(made, made.cam, random_labels=random_labels, told=told)
        assert len([note for note in told.reporter.notes if "was not trained with --permute-labels" in note]) == remarks


def test_another_classifier_is_refused(made, tmp_path):
    with pytest.raises(BadInput, match="was made by another classifier"):
        check(made, made.cam, classifier=made.other)
    with pytest.raises(BadInput, match="the very classifier"):
        check(made, made.cam, random_labels=made.cls)
    path = tmp_path / "wide.h5"
    classes = replace(made.dataset, classes=(*made.dataset.classes, "more"))
    train(classes, ModelOptions(MODEL, "none"), None, None, runtime(path))
    with pytest.raises(BadInput, match="other classes than"):
        check(made, made.cam, random_labels=str(path))
    with pytest.raises(BadInput, match="holds heatmaps, this step needs classifier"):
        check(made, made.cam, classifier=made.random)
    with pytest.raises(UsageError, match="read more than once"):
        check(made, made.cam, classifier="-")


def test_heatmaps_that_no_classifier_gave_are_refused(made, tmp_path):
    with Part(made.directory / "cls.h5", "cls") as part:
        content = part.stored_content()
    foreign = header(parents=(Parent("classifier", content),))
    walked = replace(foreign, command="random-walk", run="")
    for head, message in ((walked, "made by random-walk"), (foreign, "recorded options are incomplete")):
        path = write(tmp_path / f"{head.command}.h5", range(6), head)
        with pytest.raises(BadInput, match=message):
            check(made, str(path))


def test_an_option_that_cannot_be_repeated_is_refused():
    known = {**{name: None for name in ("size", "layer", "output_stride")}, "method": "cam", "settings": {},
             "scales": [1.0, 0.5], "flip": True, "map_size": [8, 9], "amp": False, "seed": 4}  # fmt: skip
    made = recipe_of(Header("heatmaps", ("a",), "explain", known), "x.h5")
    assert (made.views["scales"], made.views["map_size"], made.seed) == ((1.0, 0.5), (8, 9), 4)
    with pytest.raises(BadInput, match="made with sharpen=2, which this protocol cannot repeat"):
        recipe_of(Header("heatmaps", ("a",), "explain", {**known, "sharpen": 2}), "x.h5")
    with pytest.raises(UsageError, match="unknown explanation method"):
        recipe_of(Header("heatmaps", ("a",), "explain", {**known, "method": "nonsense"}), "x.h5")


def test_without_any_map_there_is_nothing_to_compare(made, tmp_path):
    bare = replace(made.dataset, items=tuple(replace(item, labels=()) for item in made.dataset.items))
    explain(made.cls, bare, ExplainOptions("cam", targets="labels"), runtime(tmp_path / "none.h5"))
    with pytest.raises(BadInput, match="no image with a map"):
        check(made, str(tmp_path / "none.h5"))


def test_a_signal_between_two_stages_ends_it(made, tmp_path, monkeypatch):
    told = runtime(tmp_path / "scores.h5")
    calls = []

    def stop_later(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            told.stop.signal = 15
        return explain_images(*args, **kwargs)

    monkeypatch.setattr("xseg.scores.recipe.explain_images", stop_later)
    with pytest.raises(Stopped):
        check(made, made.cam, told=told)
    assert len(calls) == 3
    assert list(tmp_path.iterdir()) == []


def test_images_that_were_compared_before_a_signal_are_kept(made, tmp_path, monkeypatch):
    whole, *_ = check(made, made.cam, made.random, told=runtime())
    path = tmp_path / "scores.h5"
    told, kept = runtime(path), Journal.add

    def stop_later(self, key, value):
        kept(self, key, value)
        told.stop.signal = 15 if len(self) == 4 else None

    monkeypatch.setattr(Journal, "add", stop_later)
    with pytest.raises(Stopped, match=r"4 images are kept in .*scores.h5.journal"):
        check(made, made.cam, made.random, told=told)
    again = runtime(path)
    resumed, *_ = check(made, made.cam, made.random, told=again)
    assert resumed == whole
    assert any("measured already: 4 images" in note for note in again.reporter.notes)
    assert [one.name for one in tmp_path.iterdir()] == ["scores.h5"]
