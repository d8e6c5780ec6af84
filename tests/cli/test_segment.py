"""The last step: a segmenter learned from the chain's masks, and what it makes of images."""

import importlib.util
import shutil

import numpy as np
import pytest

from tests.cli.conftest import SEGMENTER
from tests.cli.read import content, failures, records
from xseg.exchange.onnx import PACKAGES

CPU = ("--device", "cpu")
LOOKS = ("--limit", 9, "--scales", "1,0.75", "--flip", "--window", 48, "--step", 32)
# Where two classes are equally probable, rounding decides.
FEW_PIXELS = 1e-3


@pytest.fixture(scope="module")
def masks(chain, run, tmp_path_factory):
    """Masks of images that were looked at in every way."""
    out = tmp_path_factory.mktemp("segmented") / "masks.h5"
    run("segment", chain.seg, chain.data, *LOOKS, *CPU, "-o", out)
    return out


def apart(one, other):
    """The largest share of an image's pixels in which two artifacts of masks differ."""
    pairs = zip(records(one), records(other), strict=True)
    return max(float((ours.arrays["masks"] != theirs.arrays["masks"]).mean()) for ours, theirs in pairs)


def test_the_artifacts_say_what_they_are_and_where_they_come_from(chain, run, masks):
    facts = run("info", chain.seg, "--json").json
    assert facts["kind"] == "segmenter"
    assert [parent["kind"] for parent in facts["parents"]] == ["masks", "weights", "dataset"]
    assert facts["parents"][0]["content"] == content(chain.masks)
    facts = run("info", masks, "--json").json
    assert facts["kind"] == "masks"
    assert facts["parents"] == [{"kind": "segmenter", "content": content(chain.seg)}]
    assert run("validate", masks, "--json").json["problems"] == []
    assert [record.arrays["masks"].shape for record in records(masks)] == [record.size for record in records(masks)]


def test_the_batch_changes_nothing_and_shards_join_to_the_whole(chain, run, masks, tmp_path):
    run("segment", chain.seg, chain.data, *LOOKS, *CPU, "--batch-size", 8, "-o", tmp_path / "eight.h5")
    assert apart(masks, tmp_path / "eight.h5") <= FEW_PIXELS
    shards = [tmp_path / f"{number}.h5" for number in range(3)]
    for number, shard in enumerate(shards):
        run("segment", chain.seg, chain.data, *LOOKS, *CPU, "--shard", f"{number}/3", "-o", shard)
    run("merge", *reversed(shards), "-o", tmp_path / "merged.h5")
    assert content(tmp_path / "merged.h5") == content(masks)


def test_the_posterior_as_heatmaps_has_the_masks_as_its_strongest_classes(chain, run, masks, tmp_path):
    maps = tmp_path / "maps.h5"
    run("segment", chain.seg, chain.data, *LOOKS, *CPU, "--heatmaps", "--dtype", "float32", "--least", 0, "-o", maps)
    for ours, theirs in zip(records(maps), records(masks), strict=True):
        assert ours.arrays["maps/class_id"].tolist() == [0, 1, 2, 3]
        raw = ours.arrays["maps"].astype(np.float64) * ours.arrays["maps/scale"][:, None, None]
        np.testing.assert_allclose(raw.sum(0), 1, atol=1e-5)
        assert (raw.argmax(0) == theirs.arrays["masks"]).mean() >= 1 - FEW_PIXELS


def test_improbable_classes_are_left_out_of_heatmaps_but_never_the_background(chain, run, tmp_path):
    run("segment", chain.seg, chain.data, "--limit", 3, "--heatmaps", "--least", 0.999, "-o", tmp_path / "maps.h5")
    assert [record.arrays["maps/class_id"].tolist() for record in records(tmp_path / "maps.h5")] == [[0]] * 3


def test_the_crf_is_that_of_crf_masks_on_the_posterior(chain, run, tmp_path):
    at = {name: tmp_path / f"{name}.h5" for name in ("direct", "maps", "steps")}
    few = (chain.seg, chain.data, "--limit", 6)
    run("segment", *few, "--crf", "--backend", "lattice", "-o", at["direct"])
    run("segment", *few, "--heatmaps", "--dtype", "float32", "-o", at["maps"])
    run("crf", at["maps"], "--masks", "--backend", "lattice", "-o", at["steps"])
    assert apart(at["direct"], at["steps"]) <= FEW_PIXELS


def test_the_mean_iou_of_training_is_that_of_segment_and_evaluate(chain, run, tmp_path):
    seg, found = tmp_path / "seg.h5", tmp_path / "val.h5"
    held_out = (chain.data, "--split", "train", "--val-split", "val")
    told = run("train-seg", chain.masks, *held_out, *SEGMENTER, "--epochs", 1, "--json", "-o", seg).json
    run("segment", seg, chain.data, "--split", "val", "-o", found)
    scores = run("evaluate", found, "--dataset", chain.data, "--split", "val", "--json").json
    assert told["validation_images"] == scores["images"] == 6
    assert told["miou"] == pytest.approx(scores["miou"], abs=1e-6)
    assert told["per_class_iou"] == pytest.approx(scores["per_class_iou"], abs=1e-6, nan_ok=True)


def test_masks_of_held_out_images_never_enter_training(chain, run, tmp_path):
    out = tmp_path / "seg.h5"
    command = ("train-seg", chain.masks, *SEGMENTER, "--epochs", 1, "--val-dataset", chain.data, "-o", out)
    refused = run(*command, "--val-split", "val", status=2)
    assert "is among the images that validation holds out" in refused.stderr
    assert not out.exists()
    run("train-seg", chain.masks, chain.data, *command[2:], "--split", "train", "--val-split", "val")
    assert run("info", out, "--json").json["provenance"]["images"] == 18


def test_a_classifier_artifact_is_a_backbone_and_confidence_a_weight(chain, run, tmp_path):
    labels, out = tmp_path / "labels.h5", tmp_path / "seg.h5"
    shape = ("--crop", 48, "--batch-size", 6, "--width", 16, "--epochs", 1, "--head", "lraspp")
    command = ("train-seg", labels, "--weights", chain.cls, *shape, "--weighting", "confidence", "-o", out)
    refused = run("train-seg", chain.labels, *command[2:], status=65)
    assert "--posteriors" in refused.stderr
    run("crf", chain.cam, "--posteriors", "-o", labels)
    run(*command, "--balance", 1)
    parents = run("info", out, "--json").json["parents"]
    assert {"kind": "classifier", "content": content(chain.cls)} in parents


def test_labels_restrict_the_classes_to_those_of_the_image(chain, run, tmp_path):
    at = {name: tmp_path / f"{name}.h5" for name in ("maps", "masks", "given", "refined")}
    few = ("segment", chain.seg, chain.data, "--limit", 9)
    run(*few, "--heatmaps", "--dtype", "float32", "--least", 0, "-o", at["maps"])
    run(*few, "--targets", "labels", "-o", at["masks"])
    run(*few, "--targets", "labels", "--heatmaps", "--dtype", "float32", "--least", 0, "-o", at["given"])
    run(*few, "--targets", "labels", "--crf", "--backend", "lattice", "-o", at["refined"])
    for every, mask, given, refined in zip(*map(records, at.values()), strict=True):
        rows = [0, *(np.flatnonzero(mask.labels) + 1)]
        raw = every.arrays["maps"].astype(np.float64)[rows] * every.arrays["maps/scale"][rows, None, None]
        expected = raw / raw.sum(0)
        assert (np.take(rows, expected.argmax(0)) == mask.arrays["masks"]).mean() >= 1 - FEW_PIXELS
        assert given.arrays["maps/class_id"].tolist() == rows
        np.testing.assert_allclose(
            given.arrays["maps"] * given.arrays["maps/scale"][:, None, None], expected, atol=1e-5
        )
        assert set(np.unique(refined.arrays["masks"])) <= set(rows)
    scored = run("evaluate", at["masks"], "--dataset", chain.data, "--allow-missing", "--json").json
    assert scored["labels_given"] is True


def test_labels_that_are_not_there_restrict_nothing(chain, run, tmp_path):
    command = ("segment", chain.seg, chain.data / "JPEGImages", "--targets", "labels", "-o", tmp_path / "masks.h5")
    assert "image-level labels are needed" in run(*command, status=65).stderr
    assert "all, labels" in run(*command, "--targets", "top1", status=2).stderr
    named = tmp_path / "named"
    for name in ("beetle", "zebra"):
        (named / name).mkdir(parents=True)
        shutil.copy(sorted((chain.data / "JPEGImages").iterdir())[0], named / name / f"{name}.png")
    refused = run("segment", chain.seg, named, "--targets", "labels", "-o", tmp_path / "masks.h5", status=65)
    assert "'zebra' is unknown to the segmenter" in refused.stderr
    assert "--targets all" in refused.stderr


def test_masks_of_one_segmenter_train_the_next(chain, run, tmp_path):
    second, again = tmp_path / "second.h5", tmp_path / "again.h5"
    train = (chain.data, "--split", "train")
    run("segment", chain.seg, *train, "--targets", "labels", "-o", second)
    weights = ("--weights", chain.cls, "--crop", 48, "--batch-size", 6, "--width", 16, "--head", "lraspp")
    run("train-seg", second, *train, *weights, "--epochs", 1, "-o", again)
    assert run("info", again, "--json").json["parents"][0] == {"kind": "masks", "content": content(second)}


def test_maps_weigh_the_pixels_of_masks(chain, run, tmp_path):
    command = ("train-seg", chain.masks, chain.data, "--split", "train", *SEGMENTER, "--epochs", 1)
    plain, weighted, sure = (tmp_path / f"{name}.h5" for name in ("plain", "weighted", "sure"))
    run(*command, "-o", plain)
    run(*command, "--confidence", chain.walk, "--balance", 1, "-o", weighted)
    parents = run("info", weighted, "--json").json["parents"]
    assert {"kind": "heatmaps", "content": content(chain.walk)} in parents
    assert content(weighted) != content(plain)
    refused = run(*command, "--confidence", chain.cam, "-o", sure, status=65)
    assert "has no background" in refused.stderr
    assert run(*command, "--confidence", chain.masks, "-o", sure, status=65).stderr.count("heatmaps") >= 1
    run("segment", chain.seg, chain.data, "--split", "val", "--heatmaps", "-o", tmp_path / "val.h5")
    assert "no heatmaps of" in run(*command, "--confidence", tmp_path / "val.h5", "-o", sure, status=65).stderr
    assert not sure.exists()


def test_a_spoiled_image_fails_alone_in_segment_and_stops_training(chain, run, tmp_path):
    data = shutil.copytree(chain.data, tmp_path / "data")
    victim = sorted((data / "JPEGImages").iterdir())[0]
    good = victim.read_bytes()
    whole = tmp_path / "whole.h5"
    run("segment", chain.seg, data, "--limit", 4, "-o", whole)
    victim.write_bytes(b"not a picture")
    command = ("segment", chain.seg, data, "--limit", 4, "-o", tmp_path / "masks.h5")
    ended = run(*command, status=3)
    assert f"failed: {victim.stem}: " in ended.stderr
    assert [failure.id for failure in failures(tmp_path / "masks.h5")] == [victim.stem]
    ended = run("train-seg", whole, *SEGMENTER, "--epochs", 1, "-o", tmp_path / "seg.h5", status=65)
    assert victim.name in ended.stderr
    assert not (tmp_path / "seg.h5").exists()
    victim.write_bytes(good)
    run(*command)
    assert content(tmp_path / "masks.h5") == content(whole)


LEARN = ("train-seg", "{masks}", *map(str, SEGMENTER), "-o", "{out}")
REFUSED = {
    "kind": ((*LEARN[:1], "{cam}", *LEARN[2:]), 65, "holds heatmaps, this step needs masks or pseudolabels"),
    "segmenter kind": (("segment", "{cls}", "{data}", "-o", "{out}"), 65, "xseg train-seg MASKS"),
    "no masks file": ((*LEARN[:1], "nowhere.h5", *LEARN[2:]), 66, "nowhere.h5"),
    "no segmenter": (("segment", "nowhere.h5", "{data}", "-o", "{out}"), 66, "nowhere.h5"),
    "no images": ((*LEARN, "--images", "nowhere"), 66, "--images nowhere"),
    "model twice": ((*LEARN, "--weights", "{cls}"), 2, "knows its own model"),
    "no model": (("train-seg", "{masks}", "--weights", "none", "-o", "{out}"), 2, "--model is missing"),
    "head": ((*LEARN, "--head", "tail"), 2, "deeplabv3, deeplabv3+, lraspp"),
    "norm": ((*LEARN, "--norm", "layer"), 2, "batch, group"),
    "split of nothing": ((*LEARN, "--split", "train"), 2, "--split train needs a DATASET"),
    "validation of nothing": ((*LEARN, "--val-split", "val"), 2, "--val-dataset"),
    "unknown split": ((*LEARN[:2], "{data}", *LEARN[2:], "--split", "nonsense"), 2, "train, val"),
    "rates": ((*LEARN, "--rates", "6,x"), 2, "--rates 6,x"),
    "weighting of masks": ((*LEARN, "--weighting", "confidence"), 65, "has no posteriors"),
    "scales": (("segment", "{seg}", "{data}", "--scales", "0", "-o", "{out}"), 2, "--scales 0"),
    "window": (("segment", "{seg}", "{data}", "--window", "16", "-o", "{out}"), 2, "--window 32"),
    "least": (("segment", "{seg}", "{data}", "--least", "2", "-o", "{out}"), 2, "--least 2"),
    "dtype of masks": (("segment", "{seg}", "{data}", "--dtype", "uint8", "-o", "{out}"), 2, "--heatmaps"),
    "backend": (("segment", "{seg}", "{data}", "--crf", "--backend", "x", "-o", "{out}"), 2, "x"),
    "export as a picture": (("export", "{seg}", "-o", "{out}"), 2, "-o FILE.onnx"),
    "size of pictures": (("export", "{masks}", "--input-size", "8x8", "-o", "{out}"), 2, "belongs to a segmenter"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_told_in_one_sentence_and_nothing_is_written(chain, run, tmp_path, name):
    words, status, told = REFUSED[name]
    at = {key: getattr(chain, key) for key in ("cls", "cam", "masks", "seg", "data")}
    ended = run(*(word.format(**at, out=tmp_path / "out.h5") for word in words), status=status)
    assert ended.stderr.startswith("error: ")
    assert told in ended.stderr
    assert ended.stdout == b""
    assert list(tmp_path.iterdir()) == []


def test_an_image_that_cannot_be_measured_is_told_before_the_training(chain, run, tmp_path):
    data = shutil.copytree(chain.data, tmp_path / "data")
    held_out = (data / "ImageSets" / "Segmentation" / "val.txt").read_text().split()
    (data / "SegmentationClass" / f"{held_out[2]}.png").unlink()
    command = ("train-seg", chain.masks, data, "--split", "train", "--val-split", "val", *SEGMENTER, "--epochs", 1000)
    ended = run(*command, "-o", tmp_path / "seg.h5", status=65)
    assert f"{held_out[2]!r} has no mask (1 of 6" in ended.stderr
    assert not (tmp_path / "seg.h5.checkpoint").exists()


def test_other_classes_and_images_without_masks_are_refused(chain, run, tmp_path):
    data = shutil.copytree(chain.data, tmp_path / "data")
    some = tmp_path / "some.h5"
    run("segment", chain.seg, chain.data, "--limit", 8, "-o", some)
    learn = ("train-seg", some, data, "--split", "train", *SEGMENTER, "--epochs", 1, "-o", tmp_path / "seg.h5")
    assert "images absent" in run(*learn, status=65).stderr
    run(*learn, "--allow-missing")
    names = (data / "classes.txt").read_text().split()
    for file in (data / "classes.txt", data / "labels.csv"):
        file.write_text(file.read_text().replace(names[1], "teapot"))
    refused = run(*learn[:-1], tmp_path / "other.h5", status=65)
    assert "teapot" in refused.stderr


@pytest.mark.skipif(all(importlib.util.find_spec(name) for name in PACKAGES), reason="the ONNX packages are installed")
def test_export_without_its_packages_says_what_to_install(chain, run, tmp_path):
    ended = run("export", chain.seg, "-o", tmp_path / "seg.onnx", status=69)
    assert ended.stderr.startswith("error: export to ONNX needs ")
    assert "pip install 'xseg[onnx]'" in ended.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.skipif(not all(importlib.util.find_spec(name) for name in PACKAGES), reason="pip install 'xseg[onnx]'")
def test_export_writes_one_file_once_and_no_other_over_it(chain, run, tmp_path):
    out = tmp_path / "seg.onnx"
    command = ("export", chain.seg, "--input-size", "64x64", "-o", out)
    assert run(*command).lines == [str(out)]
    before = out.stat().st_mtime_ns
    run(*command)
    assert out.stat().st_mtime_ns == before
    run("export", chain.seg, "--input-size", "64x96", "-o", out, status=73)
    assert "holds masks, this step needs segmenter" in run("export", chain.masks, "-o", out, status=65).stderr
