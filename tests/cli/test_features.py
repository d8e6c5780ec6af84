"""`xseg features` and `xseg explain --targets ssl` as typed."""

import numpy as np
import pytest

from tests.cli.read import content, records

CPU = ("--device", "cpu")


@pytest.fixture(scope="module")
def bank(chain, run, tmp_path_factory):
    path = tmp_path_factory.mktemp("bank") / "bank.h5"
    assert run("features", chain.cls, chain.data, *CPU, "-o", path).lines == [str(path)]
    return path


@pytest.fixture
def ssl(chain, run, bank, tmp_path):
    def explain(*options, status=0):
        arguments = ("explain", chain.cls, chain.data, "--method", "grad-cam", "--targets", "ssl", *CPU)
        ended = run(*arguments, *options, "-o", tmp_path / "cam.h5", "--overwrite", status=status)
        return records(tmp_path / "cam.h5") if status == 0 else ended.stderr

    return explain


def test_a_bank_holds_one_vector_for_each_image(chain, run, bank):
    found = records(bank)
    assert [record.id for record in found] == [record.id for record in records(chain.cam)]
    assert {record.arrays["latent"].shape for record in found} == {(256,)}
    assert [record.labels.tolist() for record in found] == [record.labels.tolist() for record in records(chain.cam)]
    assert run("validate", bank, "--json").json["problems"] == []
    facts = run("info", bank, "--json").json
    assert (facts["kind"], facts["params"], facts["layer"]) == ("features", {"layer": None, "size": None}, "")
    assert facts["parents"] == [{"kind": "classifier", "content": content(chain.cls)}]


def test_shards_of_a_bank_merge_into_the_bank(chain, run, bank, tmp_path):
    shards = [tmp_path / f"{number}.h5" for number in range(3)]
    for number, path in enumerate(shards):
        run("features", chain.cls, chain.data, *CPU, "--shard", f"{number}/3", "-o", path)
    run("merge", *shards, "-o", tmp_path / "joined.h5")
    assert content(tmp_path / "joined.h5") == content(bank)


def test_a_layer_gives_another_bank_and_no_layer_a_clear_word(chain, run, bank, tmp_path):
    run("features", chain.cls, chain.data, "--layer", "blocks.1", "--limit", 3, *CPU, "-o", tmp_path / "layer.h5")
    assert len(records(tmp_path / "layer.h5")[0].arrays["latent"]) != len(records(bank)[0].arrays["latent"])
    ended = run("features", chain.cls, chain.data, "--layer", "blocks.9", *CPU, "-o", tmp_path / "no.h5", status=2)
    assert "--layer blocks.9: the model has no such module" in ended.stderr


def test_each_neighbour_gives_one_map_of_one_class_per_image_in_a_run_of_its_own(chain, run, bank, ssl, tmp_path):
    runs, classes = set(), []
    for options in (
        ("--bank", bank),
        ("--bank", bank, "--neighbour", "sum"),
        ("--bank", bank, "--neighbour-in", "latent"),
        ("--neighbour", "none"),
    ):
        found = ssl(*options)
        classes.append([record.arrays["maps/class_id"].tolist() for record in found])
        assert all(len(asked) == 1 and 1 <= asked[0] <= 3 for asked in classes[-1])
        facts = run("info", tmp_path / "cam.h5", "--json").json
        runs.add(facts["run"])
        kinds = [parent["kind"] for parent in facts["parents"]]
        assert kinds == (["classifier", "features"] if bank in options else ["classifier"])
    assert len(runs) == 4
    assert classes[0] == classes[2]


def test_without_a_neighbour_the_class_is_the_most_probable_one(chain, run, ssl, tmp_path):
    alone = ssl("--neighbour", "none")
    run("explain", chain.cls, chain.data, "--method", "grad-cam", "--targets", "top1", *CPU, "-o", tmp_path / "top.h5")
    for one, other in zip(alone, records(tmp_path / "top.h5"), strict=True):
        assert all(np.array_equal(one.arrays[name], other.arrays[name]) for name in one.arrays)


def test_batches_change_no_class(bank, ssl):
    one, four = (ssl("--bank", bank, "--batch-size", size) for size in (1, 4))
    assert [a.arrays["maps/class_id"].tolist() for a in one] == [b.arrays["maps/class_id"].tolist() for b in four]


def test_a_bank_of_the_image_alone_fails_that_image_only(chain, run, ssl, tmp_path):
    run("features", chain.cls, chain.data, "--limit", 1, *CPU, "-o", tmp_path / "one.h5")
    said = ssl("--bank", tmp_path / "one.h5", "--limit", 3, status=3)
    assert said.count("has no neighbour") == 1
    assert len(records(tmp_path / "cam.h5")) == 2


def test_what_makes_no_sense_is_refused_in_a_sentence(chain, run, bank, ssl, tmp_path):
    assert "--targets ssl needs --bank" in ssl(status=2)
    assert "there is no neighbour to use them" in ssl("--neighbour", "none", "--bank", bank, status=2)
    assert "--output-stride 16 with --targets ssl" in ssl("--bank", bank, "--output-stride", 16, status=2)
    assert "this step needs features" in ssl("--bank", chain.cam, status=65)
    said = run("explain", chain.cls, chain.data, "--bank", bank, "-o", tmp_path / "x.h5", status=2).stderr
    assert "belong to --targets ssl" in said
    said = run("explain", chain.cls, chain.data, "--targets", "ssl", "--bank", bank, "--neighbour-in", "latent",
               "-o", tmp_path / "x.h5", status=2).stderr  # fmt: skip
    assert "cam needs only a global mean" in said
    run("train-cls", chain.data, "--model", "timm:test_efficientnet", "--weights", "none", "--init-only", "--seed", 7,
        "-o", tmp_path / "other.h5")  # fmt: skip
    said = run("explain", tmp_path / "other.h5", chain.data, "--targets", "ssl", "--bank", bank, "-o",
               tmp_path / "x.h5", status=65).stderr  # fmt: skip
    assert "its vectors are those of another classifier" in said
