import shutil
from dataclasses import replace

import numpy as np
from PIL import Image

from tests.cli.read import records
from xseg.artifacts.decode import Part
from xseg.artifacts.encode import encode
from xseg.datasets.synthetic import write_synthetic


def pictures(directory):
    return {path.stem: np.asarray(Image.open(path)) for path in sorted((directory / "overlays").glob("*.png"))}


def test_every_image_gets_an_overlay_and_the_first_ones_a_sheet(chain, run, tmp_path):
    ended = run("show", chain.masks, "-o", tmp_path / "out")
    assert ended.lines == [str(tmp_path / "out")]
    drawn = pictures(tmp_path / "out")
    assert set(drawn) == {record.id for record in records(chain.masks)}
    assert all(picture.ndim == 3 and picture.std() > 0 for picture in drawn.values())
    with Image.open(tmp_path / "out" / "sheet.png") as sheet:
        assert sheet.size[1] > 24 * 100


def test_limit_counts_images(chain, run, tmp_path):
    run("show", chain.cam, "--limit", 3, "-o", tmp_path / "out")
    first = sorted(records(chain.cam), key=lambda record: record.index)[:3]
    assert set(pictures(tmp_path / "out")) == {record.id for record in first}


def test_the_truth_stands_beside_what_is_shown(chain, run, tmp_path):
    run("show", chain.masks, "--limit", 2, "-o", tmp_path / "alone")
    run("show", chain.masks, "--limit", 2, "--dataset", chain.data, "-o", tmp_path / "beside")
    alone, beside = pictures(tmp_path / "alone"), pictures(tmp_path / "beside")
    for name, picture in alone.items():
        extra = beside[name].shape[1] - picture.shape[1]
        assert extra >= 112
        np.testing.assert_array_equal(beside[name][30:90, : picture.shape[1] - 8], picture[30:90, :-8])


def test_every_map_of_a_heatmap_is_drawn(chain, run, tmp_path):
    run("show", chain.cam, "-o", tmp_path / "out")
    drawn = pictures(tmp_path / "out")
    maps = {record.id: len(record.arrays["maps"]) for record in records(chain.cam)}
    width = {name: drawn[name].shape[1] for name in drawn}
    most, fewest = max(maps, key=maps.get), min(maps, key=maps.get)
    assert width[most] - width[fewest] >= (maps[most] - maps[fewest]) * 112 > 0


def test_a_photograph_that_is_gone_fails_alone(chain, run, tmp_path):
    shutil.copytree(chain.data, tmp_path / "data")
    with Part(chain.masks, str(chain.masks)) as part, (tmp_path / "moved.h5").open("wb") as file:
        first, second = list(part.records())[:2]
        encode(file, replace(part.header, root=str(tmp_path / "data")), list(part.records()), [])
    (tmp_path / "data" / first.path).unlink()
    ended = run("show", tmp_path / "moved.h5", "--limit", 2, "-o", tmp_path / "out", status=3)
    assert f"failed: {first.id}" in ended.stderr
    assert set(pictures(tmp_path / "out")) == {second.id}
    run("show", tmp_path / "moved.h5", "--limit", 2, "--max-failures", 1, "--overwrite", "-o", tmp_path / "out")


def test_pictures_that_are_there_are_kept_unless_told_otherwise(chain, run, tmp_path):
    run("show", chain.masks, "--limit", 1, "-o", tmp_path / "out")
    assert "--overwrite" in run("show", chain.walk, "--limit", 1, "-o", tmp_path / "out", status=73).stderr
    run("show", chain.walk, "--limit", 1, "-o", tmp_path / "out", "--overwrite")


def test_another_kind_and_other_classes_are_refused(chain, run, tmp_path):
    run("show", chain.affinity, "-o", tmp_path / "out", status=65)
    run("show", chain.masks, "--dataset", tmp_path / "nowhere", "-o", tmp_path / "out", status=66)
    other = write_synthetic(tmp_path / "other", images=4, classes=2, size=48)
    assert "other classes" in run("show", chain.masks, "--dataset", other, "-o", tmp_path / "out", status=65).stderr
    assert not (tmp_path / "out").exists()


def test_pictures_on_the_terminal_leave_no_file(chain, run, tmp_path):
    ended = run("show", chain.masks, "--limit", 2, "--terminal", "--dataset", chain.data, env={"COLUMNS": "61"})
    lines = ended.stdout.decode().splitlines()
    ids = [record.id for record in sorted(records(chain.masks), key=lambda record: record.index)[:2]]
    assert [line for line in lines if line in ids] == ids
    assert sum("photograph" in line and "masks" in line and "truth" in line for line in lines) == 2
    drawn = [line for line in lines if "▀" in line]
    assert drawn
    assert {line.count("▀") for line in drawn} <= {19, 38, 57}
    assert "\x1b" not in ended.stderr
    assert "--terminal" in run("show", chain.masks, "--terminal", "-o", tmp_path / "out", status=2).stderr
    assert not (tmp_path / "out").exists()
