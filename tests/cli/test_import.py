"""Masks go out as PNG and come back; what psa wrote goes through the chain."""

import numpy as np

from tests.cli.read import content, records


def test_exported_masks_come_back_as_they_were(chain, run, tmp_path):
    run("export", chain.masks, "-o", tmp_path / "png")
    out = tmp_path / "masks.h5"
    assert run("import", tmp_path / "png", chain.data, "-o", out).lines == [str(out)]
    for ours, theirs in zip(records(out), records(chain.masks), strict=True):
        assert ours.id == theirs.id
        assert np.array_equal(ours.arrays["masks"], theirs.arrays["masks"])


def test_maps_of_psa_are_refined_as_ours(chain, run, tmp_path):
    (tmp_path / "psa").mkdir()
    for one in records(chain.cam):
        maps = one.arrays["maps"].astype(np.float32) * one.arrays["maps/scale"][:, None, None]
        found = {int(number) - 1: values for number, values in zip(one.arrays["maps/class_id"], maps, strict=True)}
        np.save(tmp_path / f"psa/{one.id}.npy", found)
    taken, labels = tmp_path / "cam.h5", tmp_path / "labels.h5"
    for _ in range(2):  # the second time it is complete already
        run("import", tmp_path / "psa", chain.data, "-o", taken)
    run("crf", taken, "-o", labels)
    assert len(records(labels)) == len(records(chain.labels))
    assert content(taken)


def test_an_evil_pickle_fails_its_image_and_runs_nothing(chain, run, tmp_path):
    (tmp_path / "psa").mkdir()
    first = records(chain.cam)[0].id
    (tmp_path / f"psa/{first}.npy").write_bytes(b"\x93NUMPY\x01\x00v\x00" + b"x" * 118)
    ended = run("import", tmp_path / "psa", chain.data, "--limit", 1, "-o", tmp_path / "out.h5", status=3)
    assert f"failed: {first}: {first}.npy: cannot be read" in ended.stderr


def test_masks_exported_for_coco_come_back_as_they_were(chain, run, tmp_path):
    run("export", chain.masks, "--format", "coco", "-o", tmp_path / "coco")
    for number, source in enumerate((tmp_path / "coco", tmp_path / "coco/annotations.json")):
        out = tmp_path / f"{number}.h5"
        assert run("import", source, chain.data, "-o", out).lines == [str(out)]
        for ours, theirs in zip(records(out), records(chain.masks), strict=True):
            assert ours.id == theirs.id
            assert np.array_equal(ours.arrays["masks"], theirs.arrays["masks"])
