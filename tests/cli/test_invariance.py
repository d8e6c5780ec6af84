import numpy as np
import pytest
import torch

from tests.cli.read import content, records
from xseg.classifier.step import load_classifier
from xseg.datasets import open_dataset
from xseg.heatmaps import methods
from xseg.heatmaps.inference import explain_images

CPU = ("--device", "cpu")


def ulps(one, other):
    """Largest distance of two float16 arrays of values of one sign, in steps between neighbouring numbers."""
    return np.abs(one.view(np.int16).astype(int) - other.view(np.int16).astype(int)).max(initial=0)


@pytest.mark.parametrize("method", ["cam", "grad-cam", "layer-cam", "input-x-gradient", "random"])
def test_maps_do_not_depend_on_the_batch_before_they_are_stored(chain, method):
    _, _, classifier = load_classifier(str(chain.cls), torch.device("cpu"))
    data = open_dataset(chain.data).limited(10)
    images = [data.read_image(item)[:48, :48] for item in data.items]
    targets, ids = [(1, 2)] * len(images), [item.id for item in data.items]
    found = [
        explain_images(
            classifier, methods.create(method), images, targets, ids, scales=(1.0, 1.5), flip=True, batch_size=size
        )
        for size in (1, 8)
    ]
    for one, eight in zip(*found, strict=True):
        scale = max(1.0, float(np.abs(one.maps).max()))
        assert np.abs(one.maps - eight.maps).max() <= 1e-4 * scale


def test_stored_maps_of_batch_1_and_8_differ_by_rounding_alone(chain, run, tmp_path):
    for size in (1, 8):
        run("explain", chain.cls, chain.data, "--batch-size", size, *CPU, "-o", tmp_path / f"{size}.h5")
    one, eight = records(tmp_path / "1.h5"), records(tmp_path / "8.h5")
    assert [record.id for record in one] == [record.id for record in eight]
    for ours, theirs in zip(one, eight, strict=True):
        assert np.array_equal(ours.arrays["maps/class_id"], theirs.arrays["maps/class_id"])
        assert ulps(ours.arrays["maps"], theirs.arrays["maps"]) <= 1
        assert np.allclose(ours.arrays["maps/scale"], theirs.arrays["maps/scale"], rtol=1e-4)


def steps_of(chain):
    return {
        "cam": ("explain", chain.cls, chain.data, "--batch-size", 1),
        "labels": ("crf", chain.cam),
        "walk": ("random-walk", chain.cam, chain.affinity, "--log-steps", 3),
        "masks": ("crf", chain.walk, "--masks"),
    }


@pytest.mark.parametrize("name", ["cam", "labels", "walk", "masks"])
def test_three_shards_merged_are_the_unsharded_result(chain, run, tmp_path, name):
    step = steps_of(chain)[name]
    run(*step, *CPU, "-o", tmp_path / "whole.h5")
    shards = [tmp_path / f"{number}.h5" for number in range(3)]
    for number, shard in enumerate(shards):
        run(*step, *CPU, "--shard", f"{number}/3", "-o", shard)
        assert len(records(shard)) == 8
    run("merge", *reversed(shards), "-o", tmp_path / "merged.h5")
    assert content(tmp_path / "merged.h5") == content(tmp_path / "whole.h5")


def test_the_next_step_takes_shards_as_they_are(chain, run, tmp_path):
    shards = [tmp_path / f"{number}.h5" for number in range(3)]
    for number, shard in enumerate(shards):
        run(*steps_of(chain)["cam"], *CPU, "--shard", f"{number}/3", "-o", shard)
    run("merge", *shards, "-o", tmp_path / "merged.h5")
    run("crf", *shards, "-o", tmp_path / "from-shards.h5")
    run("crf", tmp_path / "merged.h5", "-o", tmp_path / "from-merged.h5")
    assert content(tmp_path / "from-shards.h5") == content(tmp_path / "from-merged.h5")


def test_a_missing_shard_is_noticed(chain, run, tmp_path):
    for number in (0, 2):
        run(*steps_of(chain)["cam"], "--shard", f"{number}/3", "-o", tmp_path / f"{number}.h5")
    refused = run("merge", tmp_path / "0.h5", tmp_path / "2.h5", "-o", tmp_path / "merged.h5", status=65)
    assert "8 of 24 images are missing" in refused.stderr
    assert "positions 8 to 15" in refused.stderr
    assert not (tmp_path / "merged.h5").exists()
    run("merge", tmp_path / "0.h5", tmp_path / "2.h5", "--allow-missing", "-o", tmp_path / "merged.h5")
    assert [record.index for record in records(tmp_path / "merged.h5")] == [*range(8), *range(16, 24)]


def test_more_shards_than_images_leave_some_empty_and_still_join(chain, run, tmp_path):
    few = ("--limit", 2, "--batch-size", 1)
    shards = [tmp_path / f"{number}.h5" for number in range(3)]
    for number, shard in enumerate(shards):
        run("explain", chain.cls, chain.data, *few, "--shard", f"{number}/3", "-o", shard)
    run("merge", *shards, "-o", tmp_path / "merged.h5")
    run("explain", chain.cls, chain.data, *few, "-o", tmp_path / "whole.h5")
    assert content(tmp_path / "merged.h5") == content(tmp_path / "whole.h5")


def test_limit_takes_the_first_images_alone(chain, run, tmp_path):
    run("explain", chain.cls, chain.data, "--limit", 3, "--batch-size", 1, "-o", tmp_path / "three.h5")
    run("explain", chain.cls, chain.data, "--batch-size", 1, "-o", tmp_path / "all.h5")
    three, every = records(tmp_path / "three.h5"), records(tmp_path / "all.h5")
    assert [record.digest for record in three] == [record.digest for record in every[:3]]
    run("crf", tmp_path / "three.h5", "-o", tmp_path / "labels.h5")
    assert len(records(tmp_path / "labels.h5")) == 3


def test_a_larger_limit_is_other_work_and_does_not_replace_the_smaller(chain, run, tmp_path):
    run("explain", chain.cls, chain.data, "--limit", 3, "-o", tmp_path / "out.h5")
    before = content(tmp_path / "out.h5")
    run("explain", chain.cls, chain.data, "--limit", 4, "-o", tmp_path / "out.h5", status=73)
    assert content(tmp_path / "out.h5") == before


@pytest.mark.parametrize("workers", [0, 3])
def test_the_number_of_workers_changes_nothing(chain, run, tmp_path, workers):
    run("crf", chain.cam, "--workers", workers, "-o", tmp_path / "out.h5")
    assert content(tmp_path / "out.h5") == content(chain.labels)
