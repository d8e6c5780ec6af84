"""`train-guided` as a user runs it, and what `explain` and `evaluate` make of its classifier."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.cli.conftest import MODEL, TRAIN
from tests.cli.read import content, records, weights
from xseg.artifacts.stream import first_part

GUIDED = ("--masks", 6, "--crop", 48, "--resize-low", 48, "--resize-high", 64, "--batch-size", 6, "--epochs", 1)


@pytest.fixture(scope="module")
def guided(chain, run, tmp_path_factory):
    out = tmp_path_factory.mktemp("guided") / "guided.h5"
    run("train-guided", chain.data, chain.cls, *GUIDED, "-o", out)
    return out


def header(path):
    with first_part(str(path)) as part:
        return part.header


def test_a_classifier_gets_a_logit_for_the_background_and_one_copy_of_each_weight(chain, guided):
    before, after = weights(chain.cls), weights(guided)
    assert before.keys() == after.keys()
    changed = {name for name in before if before[name].shape != after[name].shape}
    assert changed == {"classifier.weight", "classifier.bias"}
    assert len(after["classifier.bias"]) == 4
    made = header(guided)
    assert made.classes == header(chain.cls).classes
    assert made.params["guidance"]["heatmap"][0] == "lrp"
    assert [parent.kind for parent in made.parents] == ["classifier", "dataset", "masks"]
    assert made.parents[0].content == content(chain.cls)
    assert made.provenance["masks"] == 6


def test_all_classes_with_the_background_are_explained_and_scored_by_argmax(chain, run, guided, tmp_path):
    maps = tmp_path / "maps.h5"
    run("explain", guided, chain.data, "--split", "val", "--method", "guided", "--targets", "all", "-o", maps)
    named = tmp_path / "named.h5"
    run("explain", guided, chain.data, "--split", "val", "--method", "lrp", "--targets", "all", "-o", named)
    assert header(maps).params["method"] == "lrp"
    assert [r.arrays["maps"].tolist() for r in records(maps)] == [r.arrays["maps"].tolist() for r in records(named)]
    score = run("evaluate", maps, "--dataset", chain.data, "--split", "val", "--json").json
    assert score["background_threshold"] is None
    confusion, names = np.zeros((4, 4)), []
    for record in records(maps):
        assert record.arrays["maps/class_id"].tolist() == [0, 1, 2, 3]
        raw = record.arrays["maps"] * record.arrays["maps/scale"][:, None, None]
        with Image.open(chain.data / "SegmentationClass" / f"{record.id}.png") as mask:
            truth = np.array(mask)
        np.add.at(confusion, (truth.ravel(), raw.argmax(0).ravel()), 1)
        names.append(record.id)
    union = confusion.sum(0) + confusion.sum(1) - confusion.diagonal()
    ious = confusion.diagonal()[union > 0] / union[union > 0]
    assert score["miou"] == pytest.approx(ious.mean(), abs=1e-9)
    assert len(names) == 6


def test_a_guided_classifier_still_classifies_and_its_classes_can_be_asked_for_by_name(chain, run, guided, tmp_path):
    run("evaluate", guided, "--protocol", "classification", "--dataset", chain.data, "--split", "val")
    out = tmp_path / "one.h5"
    run("explain", guided, chain.data, "--limit", 2, "--targets", "crate,background", "-o", out)
    assert [record.arrays["maps/class_id"].tolist() for record in records(out)] == [[2, 0]] * 2
    run("explain", guided, chain.data, "--limit", 4, "-o", tmp_path / "labels.h5")
    assert all((record.arrays["maps/class_id"] > 0).all() for record in records(tmp_path / "labels.h5"))
    run("crf", tmp_path / "labels.h5", "-o", tmp_path / "crf.h5")
    run("affinity-train", tmp_path / "crf.h5", guided, "--epochs", 1, "--crop", 64, "--batch-size", 4, "-o",
        tmp_path / "affinity.h5")  # fmt: skip


def test_a_decoder_with_a_head_of_its_own_learns_from_the_same_masks(chain, run, tmp_path):
    shape = ("--model-set", "width=4", "--model-set", "fine=8")
    out, maps = tmp_path / "multi.h5", tmp_path / "maps.h5"
    run("train-guided", chain.data, chain.cls, *GUIDED, "--heatmap", "segmentation-head", *shape, "-o", out)
    made = header(out)
    assert made.params["decoder"] == {"width": 4, "fine": 8}
    assert made.params["guidance"]["heatmap"] == ["segmentation-head", {}]
    assert {name.split(".")[0] for name in weights(out)} == {"encoder", "decoder", "segment"}
    run("explain", out, chain.data, "--split", "val", "--method", "guided", "--targets", "all", "-o", maps)
    assert header(maps).params["method"] == "segmentation-head"
    assert all(record.arrays["maps/class_id"].tolist() == [0, 1, 2, 3] for record in records(maps))
    run("evaluate", out, "--protocol", "classification", "--dataset", chain.data, "--split", "val")
    refused = run("train-guided", chain.data, chain.cls, *GUIDED, *shape, "-o", tmp_path / "no.h5", status=2)
    assert "knows its model" in refused.stderr
    again = ("--heatmap", "segmentation-head", *shape, "-o", tmp_path / "no.h5")
    refused = run("train-guided", chain.data, out, *GUIDED, *again, status=2)
    assert "has a decoder already" in refused.stderr


def test_a_new_network_is_guided_from_the_start(chain, run, tmp_path):
    out = tmp_path / "new.h5"
    told = run("train-guided", chain.data, *MODEL, *TRAIN, "--masks", "all", "--epochs", 1, "--heatmap", "grad-cam",
               "--val-split", "val", "--json", "-v", "-o", out)  # fmt: skip
    assert set(told.json["history"][0]) >= {"loss", "cross-entropy", "labels", "lr", "skipped"}
    assert set(told.json["ap"]) == set(header(out).classes)
    assert "18 of 18 images bring their mask" in told.stderr
    again = run("train-guided", chain.data, *MODEL, *TRAIN, "--masks", "all", "--epochs", 1, "--heatmap", "grad-cam",
                "--val-split", "val", "-o", out)  # fmt: skip
    assert "complete already" in again.stderr


@pytest.mark.parametrize(
    "options",
    [
        ("--loss", "dice", "--heatmap", "cam", "--set", "relu=false"),
        ("--loss", "energy", "--heatmap", "input-x-gradient"),
        ("--loss", "rrr", "--heatmap", "grad-cam", "--every-class"),
        ("--loss", "l1", "--heatmap", "agf", "--no-background"),
        ("--loss", "ppce", "--set", "composite=epsilon", "--classes-at-once", 1),
        ("--normalise", "rms", "--temperature", 0.5, "--unknown", "background", "--mask-share", 0.3),
        ("--masks", 0),
        ("--preset", "paper-000", "--set", "composite=epsilon", "--classification-weight", 10),
        ("--masks", "val", "--split", "val", "--freeze", 1, "--freeze-bn"),
    ],
    ids=str,
)
def test_every_option_trains(chain, run, tmp_path, options):
    out = tmp_path / "out.h5"
    run("train-guided", chain.data, chain.cls, *GUIDED, "--limit", 12, *options, "-o", out)
    run("explain", out, chain.data, "--limit", 1, "--method", "guided", "-o", tmp_path / "maps.h5")
    wants = "--no-background" not in options and not {"energy", "rrr", "l1", "ppce"} & set(options)
    assert json.loads(first_config(out)).get("background", False) == wants


def first_config(path):
    from xseg.artifacts.weights import read_weights

    return read_weights(str(path), "classifier")[2]


def test_an_ensemble_pays_for_looking_at_the_same(chain, run, tmp_path):
    out = tmp_path / "second.h5"
    told = run("train-guided", chain.data, chain.cls, *GUIDED[2:], "--masks", 0, "--loss", "diversity", "--against",
               chain.cls, "--heatmap", "input-x-gradient", "--epochs", 6, "--lr", 1e-3, "--freeze-bn", "--json",
               "-o", out)  # fmt: skip
    similarity = [entry["diversity"] for entry in told.json["history"]]
    assert similarity[0] > 0.2
    assert similarity[-1] < 0.7 * similarity[0]
    assert [parent.kind for parent in header(out).parents] == ["classifier", "dataset", "classifier"]


def test_masks_and_regions_are_part_of_the_runs_identity(chain, run, tmp_path):
    regions = tmp_path / "regions"
    regions.mkdir()
    first = records(chain.cam)[0]
    Image.fromarray(np.full(first.size, 9, np.uint8)).save(regions / f"{first.id}.png")
    command = ("train-guided", chain.data, chain.cls, *GUIDED, "--limit", 8, "--heatmap", "grad-cam")
    runs = []
    for number, more in enumerate([(), ("--masks", 5), ("--ignore-region", regions), ("--region-weight", 0.5)]):
        out = tmp_path / f"{number}.h5"
        told = run(*command, *more, "-v", "-o", out)
        assert ("1 of 8 images have a region" in told.stderr) == ("--ignore-region" in more)
        runs.append(header(out).run)
    assert len(set(runs)) == 4


@pytest.mark.parametrize(
    ("args", "status", "told"),
    [
        (("{data}", "{cls}", "--masks", "99"), 65, "--masks 99: only 18 of the 18"),
        (("{data}", "{cls}", "--masks", "nothing"), 2, "no number, no file and no list"),
        (("{data}", "{cls}", "--masks", "val"), 65, "none of its 6 images is in the training list"),
        (("{data}", "--masks", "1"), 2, "neither CLASSIFIER nor --model is given"),
        (("{data}", "--model", "timm:test_efficientnet", "--masks", "1"), 2, "--weights"),
        (("{data}", "{cls}", "--model", "unet", "--masks", "1"), 2, "knows its model"),
        (("{data}", "{cls}", "--masks", "1", "--heatmap", "random"), 2, "cannot be differentiated"),
        (("{data}", "{cls}", "--masks", "1", "--heatmap", "nonsense"), 2, "unknown explanation method"),
        (("{data}", "{cls}", "--masks", "1", "--set", "nonsense=1"), 2, "nonsense"),
        (("{data}", "{cls}", "--masks", "1", "--heatmap", "rollout"), 2, "rollout"),
        (("{data}", "{cls}", "--masks", "1", "--loss", "nonsense"), 2, "--loss nonsense"),
        (("{data}", "{cls}", "--masks", "1", "--no-background"), 2, "--no-background"),
        (("{data}", "{cls}", "--masks", "1", "--loss", "diversity"), 2, "--against"),
        (("{data}", "{cls}", "--masks", "1", "--against", "{cls}"), 2, "--against"),
        (("{data}", "{cls}", "--masks", "1", "--loss", "diversity", "--against", "{cls}"), 2, "looks at no mask"),
        (("{data}", "{cls}", "--masks", "0", "--loss", "diversity", "--against", "{cam}"), 65, "heatmaps"),
        (("{data}", "{cls}", "--masks", "1", "--mask-share", "1.5"), 2, "--mask-share 1.5"),
        (("{data}", "{cls}", "--masks", "1", "--temperature", "0"), 2, "--temperature 0"),
        (("{data}", "{cls}", "--masks", "1", "--weight", "-1"), 2, "--weight -1"),
        (("{data}", "{cls}", "--masks", "1", "--unknown", "x"), 2, "--unknown x"),
        (("{data}", "{cls}", "--masks", "1", "--normalise", "x"), 2, "--normalise x"),
        (("{data}", "{cls}", "--masks", "1", "--ignore-region", "{none}"), 66, "not there"),
        (("{data}", "{cls}", "--masks", "1", "--ignore-region", "{data}"), 65, "for none of the 18 images"),
        (("{data}", "{cls}", "--masks", "1", "--layer", "nowhere"), 2, "nowhere"),
        (("{data}", "{cls}", "--masks", "1", "--preset", "x"), 2, "--preset x"),
        (("{data}", "{affinity}", "--masks", "1"), 65, "affinity"),
    ],
)
def test_what_cannot_be_done_is_told_before_the_work(chain, run, tmp_path, args, status, told):
    at = {name: str(getattr(chain, name)) for name in ("data", "cls", "cam", "affinity")} | {"none": "/nowhere/at/all"}
    ended = run("train-guided", *[arg.format(**at) for arg in args], "-o", tmp_path / "out.h5", status=status)
    assert told in ended.stderr
    assert ended.stderr.startswith("error: ")
    assert list(tmp_path.iterdir()) == []


def test_a_classifier_that_was_not_guided_is_refused_by_that_name(chain, run, tmp_path):
    ended = run("explain", chain.cls, chain.data, "--method", "guided", "-o", tmp_path / "maps.h5", status=2)
    assert "were not trained" in ended.stderr
    assert "train-guided" in ended.stderr
