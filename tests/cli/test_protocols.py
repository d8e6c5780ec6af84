"""`evaluate --protocol class-specificity` and `--protocol sanity` on the command line."""

import pytest

from tests.cli.conftest import MODEL, TRAIN


def test_class_specificity_prints_one_object_or_a_table(chain, run, tmp_path):
    out = tmp_path / "scores.h5"
    command = ("evaluate", chain.cam, "--protocol", "class-specificity", "--dataset", chain.data, "-o", out)
    found = run(*command, "--json").json
    assert (found["protocol"], found["input"]) == ("class-specificity", str(chain.cam))
    assert found["images"] + found["images_with_fewer_classes"] == 24
    assert 0 < found["uniform_map"]["own_share"] < 1
    again = run(*command)
    assert again.stdout == b""
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


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("x.h5", "--protocol", "sanity"), "--classifier"),
        (("x.h5",), "--dataset"),
        (("x.h5", "--protocol", "class-specificity"), "--dataset"),
        (("x.h5", "--protocol", "sanity", "--classifier", "c.h5", "--split", "val"), "--dataset"),
        (("x.h5", "--dataset", "d", "--classifier", "c.h5"), "--classifier belongs to --protocol sanity"),
        (("x.h5", "--dataset", "d", "--device", "cpu"), "--device belongs to --protocol sanity"),
        (("x.h5", "--dataset", "d", "--images", "i"), "--images belongs to --protocol sanity"),
        (("x.h5", "--dataset", "d", "--protocol", "class-specificity", "--threshold", "0.1"),
         "--threshold belongs to --protocol segmentation, not to class-specificity"),
        (("x.h5", "--dataset", "d", "--protocol", "class-specificity", "--average", "psa"), "--average belongs"),
        (("x.h5", "--dataset", "d", "--protocol", "sanity", "--classifier", "c.h5", "--tune-on", "val"),
         "--tune-on belongs"),
        (("x.h5", "--protocol", "sanity", "--classifier", "c.h5", "--randomise", "x"), "--randomise x"),
        (("x.h5", "--protocol", "sanity", "--classifier", "c", "--stages", "3", "--random-labels", "r"),
         "--random-labels and --stages exclude"),
        (("x.h5", "--protocol", "sanity", "--classifier", "c", "--randomise", "cascading", "--random-labels", "r"),
         "exclude each other"),
    ],
)  # fmt: skip
def test_options_of_another_protocol_are_refused_before_anything_is_read(run, args, told):
    ended = run("evaluate", *args, status=2)
    assert told in ended.stderr
    assert ended.stderr.startswith("error: ")


def test_random_labels_need_training(run):
    words = ("train-cls", "d", *MODEL, "--weights", "none", "--init-only", "--permute-labels", "-o", "o.h5")
    assert "--permute-labels with --init-only" in run(*words, status=2).stderr
