"""The protocols of `evaluate` other than segmentation, on the command line."""

import pytest

from tests.artifacts.build_mat import write_mat
from tests.cli.conftest import MODEL, TRAIN


def test_class_specificity_prints_one_object_or_a_table(chain, run, tmp_path):
    out = tmp_path / "scores.h5"
    command = ("evaluate", chain.cam, "--protocol", "class-specificity", "--dataset", chain.data, "-o", out)
    found = run(*command, "--json").json
    assert (found["protocol"], found["input"]) == ("class-specificity", str(chain.cam))
    assert found["images"] + found["images_with_fewer_classes"] == 24
    assert 0 < found["uniform_map"]["own_share"] < 1
    again = run(*command)
    assert again.lines == [str(out)]
    assert "complete already" in again.stderr
    assert "own / (own + other)" in again.stderr
    both = run("evaluate", chain.cam, chain.walk, "--protocol", "class-specificity", "--dataset", chain.data, "--json")
    assert {name: both.json["runs"][0][name] for name in found} == found


def test_sanity_compares_with_random_weights_and_random_labels(chain, run, tmp_path):
    command = ("evaluate", chain.cam, "--protocol", "sanity", "--classifier", chain.cls)
    found = run(*command, "--limit", 2, "--json").json
    assert (found["protocol"], found["randomised"], found["images"]) == ("sanity", "cascading", 2)
    assert found["stored_difference"] < 5e-3
    assert found["stages"][0]["redrawn"] < found["stages"][-1]["redrawn"]
    few = (*command, "--dataset", chain.data, "--limit", 2)
    table = run(*few, "--randomise", "independent", "-o", tmp_path / "scores.h5").stderr
    assert "independent" in table
    random = tmp_path / "random.h5"
    run("train-cls", chain.data, *MODEL, *TRAIN, "--epochs", 1, "--permute-labels", "-o", random)
    ended = run(*few, "--random-labels", random, "--json")
    assert [stage["stage"] for stage in ended.json["stages"]] == ["labels"]
    assert "--permute-labels" not in ended.stderr
    refused = run(*command[:-1], random, status=65)
    assert "was made by another classifier" in refused.stderr


def test_perturbation_prints_curves_and_draws_them(chain, run, tmp_path):
    picture = tmp_path / "curves.png"
    command = ("evaluate", chain.cam, "--protocol", "perturbation", "--classifier", chain.cls, "--frame", "32x48")
    found = run(*command, "--limit", 3, "--json").json
    assert (found["protocol"], found["frame"], found["fill"]) == ("perturbation", [32, 48], "black")
    assert len(found["curves"]["positive"]) == len(found["curves"]["negative"]) == 10
    assert 0 <= found["auc_positive"] <= 0.9
    few = (*command, chain.walk, "--dataset", chain.data, "--limit", 3, "--score-against", "predicted")
    ended = run(*few, "--measure", "deletion,road-morf", "--steps", 4, "--curve", picture, "-o", tmp_path / "s.h5")
    assert "deletion area" in ended.stderr
    assert "was not made directly by" in ended.stderr  # the walk's heatmaps
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "exists" in run(*command, "--curve", picture, status=73).stderr


def test_a_mat_goes_through_the_chain_from_one_file(chain, run, tmp_path):
    mat, maps = write_mat(tmp_path / "gtsegs.mat", 3), tmp_path / "maps.h5"
    run("explain", chain.cls, mat, "--targets", "top1", "-o", maps)
    command = ("evaluate", maps, "--protocol", "imagenet-seg", "--dataset", mat, "--json")
    found = run(*command, "--preset", "chefer", "--frame", "32x32").json
    assert (found["images"], found["preset"], found["frame"]) == (3, "chefer", [32, 32])
    assert found["foreground"] == "above-mean"
    assert run(*command).json["frame"] == [224, 224]
    run("crf", maps, "--masks", "-o", tmp_path / "masks.h5")  # finds the photographs in the .mat again
    moved = mat.rename(tmp_path / "moved.mat")
    assert "images not found" in run("crf", maps, "-o", tmp_path / "labels.h5", status=66).stderr
    run("crf", maps, "--images", moved, "-o", tmp_path / "labels.h5")
    sanity = ("evaluate", maps, "--protocol", "sanity", "--classifier", chain.cls, "--images", moved, "--stages", 2)
    assert run(*sanity, "--json").json["images"] == 3
    spoilt = tmp_path / "old.mat"
    spoilt.write_bytes(b"MATLAB 5.0 MAT-file, Platform" + bytes(600))
    assert "not a MATLAB 7.3 file" in run("explain", chain.cls, spoilt, "-o", tmp_path / "x.h5", status=65).stderr


def test_voc_multilabel_scores_what_was_predicted(chain, run, tmp_path):
    maps = tmp_path / "maps.h5"
    run("explain", chain.cls, chain.data, "--targets", "predicted", "-o", maps)
    command = ("evaluate", maps, "--protocol", "voc-multilabel", "--dataset", chain.data)
    found = run(*command, "--frame", "image", "--json")
    assert (found.json["protocol"], found.json["images"], found.json["frame"]) == ("voc-multilabel", 24, "image")
    assert "--targets predicted" not in found.stderr
    assert "all background" in run(*command, "-o", tmp_path / "scores.h5").stderr


def test_localisation_compares_with_a_reference_with_masks_or_with_both(chain, run, tmp_path):
    maps, reference = tmp_path / "prior.h5", tmp_path / "random.h5"
    run("explain", chain.cls, chain.data, "--method", "centre-prior", "-o", maps)
    run("explain", chain.cls, chain.data, "--method", "random", "-o", reference)
    command = ("evaluate", maps, "--protocol", "localisation")
    alone = run(*command, "--reference", reference, "--limit", 5, "--json").json
    assert (alone["protocol"], alone["images"], alone["against_truth"]) == ("localisation", 5, None)
    both = (*command, "--reference", reference, "--reference-threshold", 0.25, "--dataset", chain.data)
    found = run(*both, "--tolerance", 15, "--json", "-o", tmp_path / "scores.h5").json
    assert (found["images"], found["against_reference"]["reference"]) == (24, str(reference))
    assert [point["threshold"] for point in found["against_reference"]["sweep"]][1:4] == [0.2, 0.25, 0.3]
    assert found["against_truth"]["tolerance"] == 15
    again = run(*both, "--tolerance", 15, "-o", tmp_path / "scores.h5")
    assert "complete already" in again.stderr
    assert "energy inside" in again.stderr
    assert "within 15 px" in again.stderr
    straight = run(*command, "--dataset", chain.data, "--json").json
    piped = run("evaluate", "-", *command[2:], "--dataset", chain.data, "--json", stdin=maps).json
    assert piped == {**straight, "input": "-"}


def test_classification_scores_classifiers(chain, run, tmp_path):
    command = ("evaluate", chain.cls, "--protocol", "classification", "--dataset", chain.data, "--size", 64)
    found = run(*command, "--threshold", 0.3, "--json", "-o", tmp_path / "scores.h5").json
    assert (found["protocol"], found["input"], found["images"]) == ("classification", str(chain.cls), 24)
    assert found["decisions"]["threshold"] == 0.3
    assert sum(row["count"] for row in found["calibration"]["reliability"]) == found["calibration"]["predictions"]
    batched = run(*command, "--threshold", 0.3, "--batch-size", 5, "-o", tmp_path / "scores.h5")
    assert "complete already" in batched.stderr
    assert "calibration error" in batched.stderr
    several = run("evaluate", chain.cls, *command[1:], "--json").json
    assert [run["input"] for run in several["runs"]] == [str(chain.cls)] * 2
    refused = run("evaluate", chain.cam, *command[2:], status=65)
    assert "holds heatmaps, this step needs classifier" in refused.stderr
    assert "read more than once" in run("evaluate", "-", *command[2:], status=2).stderr


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("x.h5", "--protocol", "sanity"), "--classifier"),
        (("x.h5",), "--dataset"),
        (("x.h5", "--protocol", "class-specificity"), "--dataset"),
        (("x.h5", "--protocol", "sanity", "--classifier", "c.h5", "--split", "val"), "--dataset"),
        (("x.h5", "--dataset", "d", "--classifier", "c.h5"), "--classifier belongs to --protocol sanity"),
        (("x.h5", "--protocol", "perturbation"), "--protocol perturbation without --classifier"),
        (("x.h5", "--dataset", "d", "--fill", "mean"), "--fill belongs to --protocol perturbation"),
        (("x.h5", "--protocol", "sanity", "--classifier", "c", "--curve", "c.png"), "--curve belongs to"),
        (("x.h5", "--protocol", "perturbation", "--classifier", "c", "--fill", "grey"), "--fill grey"),
        (("x.h5", "--protocol", "perturbation", "--classifier", "c", "--measure", "up"), "--measure up"),
        (("x.h5", "--protocol", "perturbation", "--classifier", "c", "--frame", "9"), "--frame 9: needed image or HxW"),
        (("x.h5", "--protocol", "perturbation", "--classifier", "c", "--frame", "image"),
         "--frame image: a classifier is asked at one size"),
        (("x.h5", "--protocol", "perturbation", "--classifier", "c", "--score-against", "x"), "--score-against x"),
        (("x.h5", "--protocol", "perturbation", "--classifier", "c", "--threshold", "0.1"), "--threshold belongs"),
        (("x.h5", "--dataset", "d", "--device", "cpu"), "--device belongs to --protocol sanity"),
        (("x.h5", "--dataset", "d", "--images", "i"), "--images belongs to --protocol sanity"),
        (("x.h5", "--dataset", "d", "--protocol", "class-specificity", "--threshold", "0.1"),
         "--threshold belongs to --protocol segmentation or classification, not to class-specificity"),
        (("x.h5", "--dataset", "d", "--protocol", "class-specificity", "--average", "psa"), "--average belongs"),
        (("x.h5", "--dataset", "d", "--protocol", "sanity", "--classifier", "c.h5", "--tune-on", "val"),
         "--tune-on belongs"),
        (("x.h5", "--protocol", "sanity", "--classifier", "c.h5", "--randomise", "x"), "--randomise x"),
        (("x.h5", "--protocol", "sanity", "--classifier", "c", "--stages", "3", "--random-labels", "r"),
         "--random-labels and --stages exclude"),
        (("x.h5", "--protocol", "sanity", "--classifier", "c", "--randomise", "cascading", "--random-labels", "r"),
         "exclude each other"),
        (("x.h5", "--protocol", "imagenet-seg"), "--dataset"),
        (("x.h5", "--dataset", "d", "--preset", "agf"), "--preset belongs to --protocol imagenet-seg, not to seg"),
        (("x.h5", "--dataset", "d", "--protocol", "voc-multilabel", "--preset", "agf"), "--preset belongs"),
        (("x.h5", "--dataset", "d", "--frame", "image"), "protocol perturbation, imagenet-seg or voc-multilabel"),
        (("x.h5", "--dataset", "d", "--protocol", "imagenet-seg", "--frame", "224"), "needed image or HxW"),
        (("x.h5", "--dataset", "d", "--protocol", "imagenet-seg", "--frame", "0x9"), "needed image or HxW"),
        (("x.h5", "--dataset", "d", "--protocol", "imagenet-seg", "--preset", "x"), "--preset x"),
        (("x.h5", "--dataset", "d", "--protocol", "voc-multilabel", "--threshold", "0.1"), "--threshold belongs"),
        (("x.h5", "--protocol", "localisation"), "nothing to compare the maps with"),
        (("x.h5", "--protocol", "localisation", "--dataset", "d", "--reference-threshold", "0.3"),
         "--reference-threshold without --reference"),
        (("x.h5", "--protocol", "localisation", "--reference", "r.h5", "--tolerance", "15"),
         "--tolerance without --dataset"),
        (("x.h5", "--protocol", "localisation", "--reference", "r.h5", "--split", "val"), "--dataset"),
        (("x.h5", "--protocol", "localisation", "--reference", "r.h5", "--reference-threshold", "1"),
         "--reference-threshold 1: needs a fraction"),
        (("x.h5", "--dataset", "d", "--reference", "r.h5"), "--reference belongs to --protocol localisation"),
        (("x.h5", "--protocol", "localisation", "--reference", "r.h5", "--threshold", "0.1"),
         "--threshold belongs to --protocol segmentation or classification, not to localisation"),
        (("x.h5", "--protocol", "classification"), "--dataset"),
        (("x.h5", "--dataset", "d", "--size", "9"), "--size belongs to --protocol classification"),
        (("x.h5", "--protocol", "classification", "--dataset", "d", "--tune-on", "train"), "--tune-on belongs"),
    ],
)  # fmt: skip
def test_options_of_another_protocol_are_refused_before_anything_is_read(run, args, told):
    ended = run("evaluate", *args, status=2)
    assert told in ended.stderr
    assert ended.stderr.startswith("error: ")


def test_random_labels_need_training(run):
    words = ("train-cls", "d", *MODEL, "--weights", "none", "--init-only", "--permute-labels", "-o", "o.h5")
    assert "--permute-labels with --init-only" in run(*words, status=2).stderr
