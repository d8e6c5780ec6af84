import os
import shutil
from dataclasses import replace

import pytest

from tests.pictures.report.test_page import embedded
from xseg.artifacts.decode import Part
from xseg.artifacts.encode import encode


def test_a_whole_chain_becomes_one_page(chain, run, tmp_path):
    names = ("cls", "cam", "labels", "affinity", "walk", "masks", "seg", "scores")
    inputs = [getattr(chain, name) for name in names]
    ended = run("report", *inputs, "--dataset", chain.data, "-o", tmp_path / "page.html")
    assert ended.lines == [str(tmp_path / "page.html")]
    assert "24 images" in ended.stderr
    text = (tmp_path / "page.html").read_text()
    gallery = embedded(text)
    assert gallery["runs"] == ["cam.h5", "labels.h5", "walk.h5", "masks.h5"]
    assert len(gallery["images"]) == 24
    assert all(image["truth"] is not None for image in gallery["images"])
    assert all(run["iou"] is not None for image in gallery["images"] for run in image["runs"])
    for name in names:
        assert f"<dd>{getattr(chain, name)}</dd>" in text
    drawn = text[text.index('<svg class="chain"') : text.index('class="steps"')]
    assert drawn.count('class="box"') == 8
    parts = [run("info", path, "--json").json for path in inputs]
    named = {parent["content"] for part in parts for parent in part["parents"]} - {part["content"] for part in parts}
    assert drawn.count('class="box outside"') == len(named) >= 3
    assert f"{chain.ended['scores'].json['miou']:.3f}" in text


def test_the_number_of_workers_changes_nothing(chain, run, tmp_path):
    run("report", chain.cam, "--workers", 1, "-o", tmp_path / "1.html")
    run("report", chain.cam, "--workers", 3, "-o", tmp_path / "3.html")
    assert (tmp_path / "1.html").read_bytes() == (tmp_path / "3.html").read_bytes()


def test_a_stream_comes_in_and_the_page_goes_out_by_standard_output(chain, run, tmp_path):
    run("report", "-", "-o", tmp_path / "file.html", stdin=chain.masks)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    running = run.start("report", chain.masks, stdout=pipe)
    piped = pipe.read_text()
    assert running.wait().status == 0
    assert embedded(piped)["images"] == embedded((tmp_path / "file.html").read_text())["images"]
    assert piped.endswith("</html>\n")


def test_limit_size_and_json(chain, run, tmp_path):
    ended = run("report", chain.cam, "--limit", 3, "--size", 32, "--json", "-o", tmp_path / "page.html")
    size = (tmp_path / "page.html").stat().st_size
    assert ended.json == {"path": str(tmp_path / "page.html"), "images": 3, "bytes": size}
    run("report", chain.cam, "--limit", 3, "--size", 64, "-o", tmp_path / "large.html")
    assert (tmp_path / "large.html").stat().st_size > size


def test_a_page_that_is_there_is_kept_unless_told_otherwise(chain, run, tmp_path):
    page = tmp_path / "page.html"
    page.write_text("mine")
    assert "--overwrite" in run("report", chain.masks, "-o", page, status=73).stderr
    assert page.read_text() == "mine"
    run("report", chain.masks, "--limit", 1, "--overwrite", "-o", page)
    assert page.read_text().startswith("<!doctype html>")
    run("report", chain.masks, "--overwrite", "-o", chain.masks, status=2)


def test_a_photograph_that_is_gone_fails_alone_in_all_runs(chain, run, tmp_path):
    shutil.copytree(chain.data, tmp_path / "data")
    moved = []
    for name in ("cam", "masks"):
        with Part(getattr(chain, name), name) as part, (tmp_path / f"{name}.h5").open("wb") as file:
            first, *_ = records = list(part.records())
            encode(file, replace(part.header, root=str(tmp_path / "data")), records, [])
        moved.append(tmp_path / f"{name}.h5")
    (tmp_path / "data" / first.path).unlink()
    ended = run("report", *moved, "--limit", 3, "-o", tmp_path / "page.html", status=3)
    assert f"failed: {first.id}: {first.path}: not found" in ended.stderr
    ids = [image["id"] for image in embedded((tmp_path / "page.html").read_text())["images"]]
    assert len(ids) == 2
    assert first.id not in ids
    run("report", *moved, "--limit", 3, "--max-failures", 1, "--overwrite", "-o", tmp_path / "page.html")
    run("report", *moved, "--limit", 3, "--images", chain.data, "--overwrite", "-o", tmp_path / "page.html")


def test_photographs_that_are_nowhere_leave_the_scores(chain, run, tmp_path):
    with Part(chain.masks, "masks") as part, (tmp_path / "lost.h5").open("wb") as file:
        encode(file, replace(part.header, root=str(tmp_path / "nowhere")), list(part.records()), [])
    ended = run("report", tmp_path / "lost.h5", chain.scores, "-o", tmp_path / "page.html", status=66)
    assert "--images" in ended.stderr
    assert not (tmp_path / "page.html").exists()
    run("report", chain.scores, "-o", tmp_path / "page.html")
    assert "mIoU" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("args", "status", "told"),
    [
        (("{masks}", "--dataset", "{dir}/nowhere"), 66, "nowhere"),
        (("{scores}", "--dataset", "{data}"), 2, "--dataset"),
        (("{masks}", "--size", "3"), 2, "--size"),
        (("{dir}/none.h5",), 66, "none.h5"),
        (("{masks}", "--split", "val"), 2, "--dataset"),
    ],
)
def test_what_does_not_fit_is_told_and_nothing_is_written(chain, run, tmp_path, args, status, told):
    filled = [word.format(masks=chain.masks, scores=chain.scores, data=chain.data, dir=tmp_path) for word in args]
    ended = run("report", *filled, "-o", tmp_path / "page.html", status=status)
    assert told in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_missing_images_of_the_split_are_refused_or_allowed(chain, run, tmp_path):
    shard = tmp_path / "shard.h5"
    run("crf", chain.walk, "--masks", "--shard", "0/2", "-o", shard)
    ended = run("report", shard, "--dataset", chain.data, "-o", tmp_path / "page.html", status=65)
    assert "--allow-missing" in ended.stderr
    run("report", shard, "--dataset", chain.data, "--allow-missing", "-o", tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert len(embedded(text)["images"]) == 12
    assert "<td>12 (12)</td>" in text
