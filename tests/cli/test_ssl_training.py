"""`train-cls --objective rotation` and `--probe` as typed."""

import pytest

from tests.cli.conftest import MODEL, TRAIN
from tests.cli.read import content, records, weights

CPU = ("--device", "cpu")


@pytest.fixture(scope="module")
def ssl(chain, run, tmp_path_factory):
    path = tmp_path_factory.mktemp("ssl") / "ssl.h5"
    photographs = chain.data / "JPEGImages"
    ended = run("train-cls", photographs, "--format", "images", *MODEL, *TRAIN, "--objective", "rotation", *CPU,
                "--epochs", 1, "--limit", 12, "-o", path)  # fmt: skip
    assert ended.lines == [str(path)]
    return path


def test_a_network_that_learned_rotations_says_so(run, ssl):
    facts = run("info", ssl, "--json").json
    assert facts["classes"] == ["0 degrees", "90 degrees", "180 degrees", "270 degrees"]
    assert facts["params"]["objective"] == "rotation"
    assert "accuracy" in facts["provenance"]["training"]["history"][0]


def test_its_accuracy_is_measured_on_a_split(chain, run, tmp_path):
    ended = run("train-cls", chain.data, *MODEL, *TRAIN, "--objective", "rotation", "--epochs", 1, *CPU,
                "--val-split", "val", "--json", "-o", tmp_path / "r.h5").json  # fmt: skip
    assert 0 <= ended["accuracy"] <= 1
    assert sum(ended["accuracies"].values()) / 4 == pytest.approx(ended["accuracy"])


def test_a_probe_of_it_is_a_classifier_that_explain_explains(chain, run, ssl, tmp_path):
    probe = tmp_path / "probe.h5"
    run("train-cls", chain.data, "--weights", ssl, "--probe", "blocks.1", *TRAIN[2:], "--epochs", 1, *CPU, "-o", probe)
    facts = run("info", probe, "--json").json
    assert facts["params"]["probe"] == "blocks.1"
    assert facts["parents"][0] == {"kind": "classifier", "content": content(ssl)}
    before, after = weights(ssl), weights(probe)
    assert [key for key in after if not key.startswith("trunk.")] == ["head.weight", "head.bias"]
    assert all((before[key.removeprefix("trunk.net.")] == value).all() for key, value in after.items()
               if key.startswith("trunk."))  # fmt: skip
    for method in ("cam", "agf"):
        run("explain", probe, chain.data, "--method", method, "--limit", 2, *CPU, "-o", tmp_path / f"{method}.h5")
        assert len(records(tmp_path / f"{method}.h5")) == 2
    run("features", probe, chain.data, "--limit", 2, *CPU, "-o", tmp_path / "bank.h5")
    assert len(records(tmp_path / "bank.h5")[0].arrays["latent"]) == after["head.weight"].shape[1]


def test_maps_of_a_pretext_task_are_scored_by_their_place_and_others_are_refused(chain, run, ssl, tmp_path):
    places, named = tmp_path / "ssl.h5", tmp_path / "top1.h5"
    run("explain", ssl, chain.data, "--targets", "ssl", "--neighbour", "none", *CPU, "-o", places)
    run("explain", ssl, chain.data, "--targets", "top1", *CPU, "-o", named)
    score = ("--protocol", "imagenet-seg", "--dataset", chain.data, "--json")
    found = run("evaluate", places, *score).json
    assert found["images"] > 0
    assert found["images_without_map"] == found["maps_of_another_class"] == 0
    assert "has other classes than the heatmaps" in run("evaluate", named, *score, status=65).stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--objective", "jigsaw"), "--objective jigsaw: unknown"),
        (("--objective", "rotation", "--permute-labels"), "learns without labels"),
        (("--objective", "rotation", "--loss", "bce"), "learns without labels"),
        (("--objective", "rotation", "--balance", "0.5"), "no labels are looked at"),
        (("--probe", "nowhere"), "no such module"),
        (("--probe", "blocks.1", "--layer", "blocks.0"), "heatmaps look at the probed layer"),
    ],
)
def test_options_that_do_not_go_together_are_refused(chain, run, tmp_path, options, said):
    ended = run("train-cls", chain.data, *MODEL, *TRAIN, *options, "-o", tmp_path / "x.h5", status=2)
    assert said in ended.stderr


def test_an_artifact_is_probed_or_starts_a_new_network(chain, run, ssl, tmp_path):
    for options in ((), ("--probe", "blocks.1", *MODEL)):
        ended = run("train-cls", chain.data, "--weights", ssl, *options, "-o", tmp_path / "x.h5", status=2)
        assert "a probed artifact knows its own model, a new network needs one" in ended.stderr
    for options in (("--keep-head",), ("--head-init", "transfer")):
        command = ("train-cls", chain.data, "--init-only", "--weights", ssl, *MODEL, *options)
        assert f"{options[0]}" in run(*command, "-o", tmp_path / "x.h5", status=2).stderr
    ended = run("train-cls", chain.data, "--weights", "none", "-o", tmp_path / "x.h5", status=2)
    assert "--model is missing" in ended.stderr


def test_a_new_network_and_the_encoder_of_one_start_from_an_artifacts_weights(chain, run, tmp_path):
    given = weights(chain.cls)
    content = run("info", chain.cls, "--json").json["content"]
    starts = {"same": MODEL, "unet": ("--model", "unet", "--set", "encoder=test_efficientnet", "--set", "width=8")}
    for name, model in starts.items():
        out = tmp_path / f"{name}.h5"
        run("train-cls", chain.data, *model, "--weights", chain.cls, "--init-only", "-o", out)
        assert run("info", out, "--json").json["parents"][0] == {"kind": "classifier", "content": content}
        found = weights(out)
        head = {key for key in given if key.startswith("classifier.")}
        prefix = "" if name == "same" else "encoder.net."
        shared = [key for key in given if prefix + key in found and key not in head]
        assert len(shared) > len(given) // 2
        assert all((found[prefix + key] == given[key]).all() for key in shared)
        assert name == "unet" or any((found[key] != given[key]).any() for key in head)
