"""Everything that can be wrong with an input: a clear message, the right status, nothing half-written."""

import io
import os
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.conftest import MODEL, TRAIN
from tests.cli.read import content, failures, records
from tests.datasets.builders import encoded, pixels, png, put
from xseg.datasets.synthetic import write_synthetic

FEW = ("--limit", 4)


@pytest.fixture
def data(chain, tmp_path):
    """A copy of the data that a test may spoil; its first image is what gets spoiled."""
    return shutil.copytree(chain.data, tmp_path / "data")


@pytest.fixture
def out(tmp_path):
    (tmp_path / "made").mkdir()
    return tmp_path / "made" / "out.h5"


def photographs(data):
    return sorted((data / "JPEGImages").iterdir())


def refused(ended, *told, out=None):
    """The shape of every refusal: `error: ...` first, naming what is wrong, and no output or rest of one."""
    assert ended.stderr.startswith("error: "), ended.stderr
    for text in told:
        assert str(text) in ended.stderr
    assert ended.stdout == b""
    if out is not None:
        assert list(out.parent.iterdir()) == []
    return ended


SPOILED = {
    "corrupt": lambda data: b"not a picture" * 40,
    "truncated": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
}


@pytest.mark.parametrize("how", SPOILED)
def test_explain_names_a_spoiled_image_goes_on_and_tries_it_again_once_mended(chain, run, data, out, how):
    victim = photographs(data)[0]
    good = victim.read_bytes()
    victim.write_bytes(SPOILED[how](good))
    command = ("explain", chain.cls, data, *FEW, "--batch-size", 1, "-o", out)
    ended = run(*command, status=3)
    assert f"failed: {victim.stem}: " in ended.stderr
    assert ended.lines == [str(out)]
    assert [failure.id for failure in failures(out)] == [victim.stem]
    assert victim.name in failures(out)[0].reason
    assert len(records(out)) == 3

    assert run(*command, status=3).lines == [str(out)]  # still broken
    assert run(*command, "--max-failures", 1).lines == [str(out)]

    victim.write_bytes(good)
    run(*command)
    assert failures(out) == []
    run(*command[:-1], out.with_name("whole.h5"))
    assert content(out) == content(out.with_name("whole.h5"))


def test_a_failed_image_stays_accounted_for_down_the_chain(chain, run, data, out):
    photographs(data)[0].write_bytes(b"")
    run("explain", chain.cls, data, *FEW, "-o", out, status=3)
    at = {name: out.with_name(f"{name}.h5") for name in ("labels", "walk", "masks")}
    run("crf", out, "-o", at["labels"])
    run("random-walk", out, chain.affinity, "--log-steps", 3, "-o", at["walk"])
    run("crf", at["walk"], "--masks", "-o", at["masks"])
    for made in at.values():
        assert len(records(made)) == 3
        assert len(failures(made)) == 1
    scores = run("evaluate", at["masks"], "--dataset", data, *FEW, "--json").json
    assert (scores["images"], scores["missing"]) == (3, 1)


@pytest.mark.parametrize("step", ["crf", "random-walk"])
def test_an_image_spoiled_after_the_heatmaps_were_made_fails_alone(chain, run, data, out, step):
    cam = out.with_name("cam.h5")
    run("explain", chain.cls, data, *FEW, "-o", cam)
    victim = photographs(data)[1]
    good = victim.read_bytes()
    victim.write_bytes(good[:-1])
    command = (step, cam, *([chain.affinity] if step == "random-walk" else []), "-o", out)
    ended = run(*command, status=3)
    assert f"failed: {victim.stem}: " in ended.stderr
    assert "was replaced" in ended.stderr
    assert len(records(out)) == 3
    victim.write_bytes(good)
    run(*command)
    assert len(records(out)) == 4


@pytest.mark.parametrize("how", SPOILED)
def test_training_stops_at_a_spoiled_image_and_names_it(chain, run, data, out, how):
    victim = data / "JPEGImages" / f"{train_list(data)[0]}{photographs(data)[0].suffix}"
    victim.write_bytes(SPOILED[how](victim.read_bytes()))
    ended = run("train-cls", data, *MODEL, *TRAIN, "--epochs", 1, "-o", out, status=65)
    refused(ended, victim.name)
    assert not out.exists()


def train_list(data):
    return (data / "ImageSets" / "Segmentation" / "train.txt").read_text().split()


def test_a_listed_image_that_is_not_there_fails_alone_in_explain_and_stops_training(chain, run, data, out):
    victim = data / "JPEGImages" / f"{train_list(data)[0]}{photographs(data)[0].suffix}"
    victim.unlink()
    ended = run("explain", chain.cls, data, "--split", "train", *FEW, "-o", out, status=3)
    assert victim.stem in ended.stderr
    assert [failure.id for failure in failures(out)] == [victim.stem]
    refused(run("train-cls", data, *MODEL, *TRAIN, "--epochs", 1, "-o", out.with_name("c.h5"), status=66), victim.stem)


def test_a_missing_mask_is_named_and_the_others_are_scored(chain, run, data, out):
    victim = sorted((data / "SegmentationClass").iterdir())[0]
    victim.unlink()
    ended = run("evaluate", chain.masks, "--dataset", data, "--json", "-o", out, status=3)
    assert f"failed: {victim.stem}: " in ended.stderr
    assert ended.json["missing"] == 1


def test_a_mask_of_another_size_is_named_and_the_others_are_scored(chain, run, data, out):
    victim = sorted((data / "SegmentationClass").iterdir())[2]
    Image.fromarray(np.zeros((5, 7), np.uint8)).save(victim)
    ended = run("evaluate", chain.cam, "--dataset", data, "--json", status=3)
    assert f"failed: {victim.stem}: " in ended.stderr
    assert "5 x 7 pixels" in ended.stderr
    assert ended.json["missing"] == 1


def test_an_evaluation_with_a_mended_mask_replaces_the_one_that_lacked_it(chain, run, data, out):
    victim = sorted((data / "SegmentationClass").iterdir())[0]
    good = victim.read_bytes()
    victim.write_bytes(b"")
    command = ("evaluate", chain.masks, "--dataset", data, "--json", "-o", out)
    run(*command, status=3)
    victim.write_bytes(good)
    assert run(*command).json["missing"] == 0


@pytest.mark.parametrize(
    "command",
    [
        ("explain", "{cls}", "{data}", "--split", "nonsense", "-o", "{out}"),
        ("train-cls", "{data}", *MODEL, *map(str, TRAIN), "--split", "nonsense", "-o", "{out}"),
        ("train-cls", "{data}", *MODEL, *map(str, TRAIN), "--val-split", "nonsense", "-o", "{out}"),
        ("evaluate", "{masks}", "--dataset", "{data}", "--split", "nonsense", "-o", "{out}"),
        ("evaluate", "{cam}", "--dataset", "{data}", "--tune-on", "nonsense", "-o", "{out}"),
    ],
)
def test_an_unknown_split_is_a_usage_error_that_names_those_there_are(chain, run, out, command):
    at = {name: str(getattr(chain, name)) for name in ("cls", "data", "masks", "cam")}
    ended = run(*(text.format(**at, out=out) for text in command), status=2)
    refused(ended, "nonsense", "train, val", out=out)


@pytest.fixture
def renamed(chain, data):
    """The same data with other class names."""
    names = (data / "classes.txt").read_text().split()
    for file in (data / "classes.txt", data / "labels.csv"):
        file.write_text(file.read_text().replace(names[1], "teapot"))
    return data


def test_other_class_names_are_refused_wherever_two_inputs_meet(chain, run, renamed, out, tmp_path):
    refused(run("explain", chain.cls, renamed, "-o", out, status=65), "teapot", out=out)
    refused(run("evaluate", chain.masks, "--dataset", renamed, status=65), "teapot")
    other = tmp_path / "other.h5"
    run("train-cls", renamed, *MODEL, *TRAIN, "--init-only", "-o", other)
    refused(run("affinity-train", chain.labels, other, "-o", out, status=65), "teapot", other, out=out)
    cam = tmp_path / "othercam.h5"
    run("explain", other, renamed, *FEW, "-o", cam)
    refused(run("random-walk", cam, chain.affinity, "-o", out, status=65), "teapot", chain.affinity, out=out)
    refused(run("merge", chain.cam, cam, "-o", out, status=65), out=out)
    run("explain", chain.cls, renamed, *FEW, "--targets", "predicted", "-o", out)


@pytest.mark.parametrize("step", ["crf", "random-walk"])
def test_images_that_were_moved_are_found_again_by_option_or_variable(chain, run, data, out, step):
    cam = out.with_name("cam.h5")
    run("explain", chain.cls, data, *FEW, "-o", cam)
    moved = data.rename(data.with_name("moved"))
    command = (step, cam, *([chain.affinity] if step == "random-walk" else []), "-o")
    ended = run(*command, out, status=66)
    refused(ended, "not found", data, "--images")
    assert not out.exists()
    run(*command, out, "--images", moved)
    again = out.with_name("again.h5")
    run(*command, again, env={"XSEG_IMAGES": str(moved)})
    assert content(again) == content(out)
    assert len(records(out)) == 4


def test_affinity_training_says_where_it_looked_for_moved_images(chain, run, data, out):
    cam, labels = out.with_name("cam.h5"), out.with_name("labels.h5")
    run("explain", chain.cls, data, *FEW, "-o", cam)
    run("crf", cam, "-o", labels)
    moved = data.rename(data.with_name("moved"))
    command = ("affinity-train", labels, chain.cls, "--epochs", 1, "--crop", 64, "--batch-size", 4, "-o", out)
    refused(run(*command, status=66), "not found", data, "--images")
    assert not out.exists()
    run(*command, "--images", moved)


def test_affinity_training_refuses_a_replaced_image(chain, run, data, out):
    cam, labels = out.with_name("cam.h5"), out.with_name("labels.h5")
    run("explain", chain.cls, data, *FEW, "-o", cam)
    run("crf", cam, "-o", labels)
    shutil.copy(photographs(data)[3], photographs(data)[0])
    command = ("affinity-train", labels, chain.cls, "--epochs", 1, "--crop", 64, "--batch-size", 4, "-o", out)
    refused(run(*command, status=65), photographs(data)[0].name, "was replaced")


@pytest.mark.parametrize(
    ("command", "made"),
    [
        (("explain", "{cam}", "{data}"), "xseg train-cls"),
        (("crf", "{cls}"), "xseg explain"),
        (("crf", "{masks}"), "xseg explain"),
        (("crf", "{labels}", "--masks"), "xseg explain"),
        (("affinity-train", "{cam}", "{cls}"), "xseg crf"),
        (("affinity-train", "{labels}", "{affinity}"), "xseg train-cls"),
        (("random-walk", "{labels}", "{affinity}"), "xseg explain"),
        (("random-walk", "{cam}", "{cls}"), "xseg affinity-train"),
        (("evaluate", "{cls}", "--dataset", "{data}"), "xseg explain"),
        (("merge", "{cls}"), "xseg"),
    ],
)
def test_the_wrong_kind_of_artifact_is_refused_and_the_right_command_named(chain, run, out, command, made):
    at = {name: str(getattr(chain, name)) for name in ("cls", "cam", "labels", "affinity", "walk", "masks", "data")}
    ended = run(*(text.format(**at) for text in command), "-o", out, status=65)
    refused(ended, " holds ", f"make it with: {made}", out=out)


@pytest.mark.parametrize("name", ["text", "hdf5", "cut", "flipped"])
def test_what_is_no_artifact_or_damaged_is_refused(chain, run, tmp_path, out, name):
    path, good = tmp_path / f"{name}.h5", chain.cam.read_bytes()
    middle = len(good) // 2
    path.write_bytes(
        {
            "text": b"id,classes\n",
            "hdf5": good[:8] + bytes(200),
            "cut": good[:middle],
            "flipped": good[:middle] + bytes([good[middle] ^ 64]) + good[middle + 1 :],
        }[name]
    )
    refused(run("crf", path, "-o", out, status=65), path)
    assert not out.exists()
    refused(run("explain", path, chain.data, "-o", out, status=65), path)


@pytest.mark.parametrize(
    "command",
    [
        ("explain", "{none}", "{data}"),
        ("explain", "{cls}", "{none}"),
        ("crf", "{none}"),
        ("random-walk", "{cam}", "{none}"),
        ("affinity-train", "{none}", "{cls}"),
        ("evaluate", "{none}", "--dataset", "{data}"),
        ("evaluate", "{cam}", "--dataset", "{none}"),
        ("train-cls", "{none}", *MODEL, *map(str, TRAIN)),
        ("train-cls", "{data}", *MODEL, "--weights", "{none}"),
        ("train-cls", "{data}", *MODEL, "--weights", "{none}", "--init-only", "--keep-head"),
        ("train-cls", "{data}", *MODEL, "--weights", "none", "--init-only", "--keep-head", "--class-names", "{none}"),
    ],
)
def test_an_input_that_is_not_there_is_named(chain, run, tmp_path, out, command):
    none = tmp_path / "nowhere.h5"
    at = {name: str(getattr(chain, name)) for name in ("cls", "cam", "data")}
    ended = run(*(text.format(**at, none=none) for text in command), "-o", out, status=66)
    refused(ended, none, out=out)


@pytest.mark.parametrize("name", ["nowhere.pth", "nowhere.h5", "directory"])
@pytest.mark.parametrize(
    "command",
    [
        ("train-cls", "{data}", "--init-only"),
        ("train-cls", "{data}", "--init-only", "--keep-head"),
        ("train-cls", "{data}", "--head-init", "transfer"),
        ("train-guided", "{data}", "--masks", "2"),
    ],
)
def test_weights_that_are_not_there_are_named(chain, run, tmp_path, out, command, name):
    (tmp_path / "directory").mkdir()
    words = [text.format(data=chain.data) for text in command]
    refused(run(*words, *MODEL, "--weights", tmp_path / name, "-o", out, status=66), tmp_path / name, out=out)


@pytest.fixture
def unlabelled(chain, tmp_path):
    """Photographs alone."""
    return shutil.copytree(chain.data / "JPEGImages", tmp_path / "photographs")


def test_data_without_labels_can_be_explained_but_not_trained_on(chain, run, unlabelled, out):
    refused(run("train-cls", unlabelled, *MODEL, *TRAIN, "-o", out, status=65), unlabelled, "label", out=out)
    refused(run("explain", chain.cls, unlabelled, "--targets", "labels", "-o", out, status=2), "label", out=out)
    refused(run("evaluate", chain.masks, "--dataset", unlabelled, status=65), unlabelled, "mask")
    run("explain", chain.cls, unlabelled, *FEW, "-o", out)
    assert all((record.labels == 255).all() for record in records(out))


@pytest.mark.slow
def test_a_data_set_of_one_class_goes_through_the_whole_chain(run, tmp_path):
    data = write_synthetic(tmp_path / "data", images=8, classes=1, size=48, seed=1)
    at = {name: tmp_path / f"{name}.h5" for name in ("cls", "cam", "labels", "affinity", "walk", "masks")}
    run("train-cls", data, *MODEL, *TRAIN, "--epochs", 1, "-o", at["cls"])
    run("explain", at["cls"], data, "-o", at["cam"])
    run("crf", at["cam"], "-o", at["labels"])
    run("affinity-train", at["labels"], at["cls"], "--epochs", 1, "--crop", 48, "--batch-size", 4, "-o", at["affinity"])
    run("random-walk", at["cam"], at["affinity"], "--log-steps", 2, "-o", at["walk"])
    run("crf", at["walk"], "--masks", "-o", at["masks"])
    scores = run("evaluate", at["masks"], "--dataset", data, "--json").json
    assert list(scores["per_class_iou"]) == ["background", *scores["classes"]]
    assert len(scores["classes"]) == 1


@pytest.mark.parametrize("step", ["explain", "train-cls", "evaluate"])
def test_an_empty_list_is_told(chain, run, data, out, step):
    (data / "ImageSets" / "Segmentation" / "none.txt").write_text("\n")
    command = {
        "explain": ("explain", chain.cls, data, "-o", out),
        "train-cls": ("train-cls", data, *MODEL, *TRAIN, "-o", out),
        "evaluate": ("evaluate", chain.masks, "--dataset", data),
    }[step]
    refused(run(*command, "--split", "none", status=65), data, "none", out=out)


def test_photographs_may_lie_elsewhere_than_their_csv(chain, run, tmp_path, out):
    listed = tmp_path / "lists"
    listed.mkdir()
    names = (chain.data / "classes.txt").read_text().split()
    found = sorted((chain.data / "JPEGImages").iterdir())[:6]
    rows = [f"{path.name},{names[number % 3]}" for number, path in enumerate(found)]
    (listed / "labels.csv").write_text("path,classes\n" + "\n".join(rows) + "\n")
    there = ("--images", chain.data / "JPEGImages")
    run("explain", chain.cls, listed / "labels.csv", *there, "-o", out)
    assert len(records(out)) == 6
    run("train-cls", listed / "labels.csv", *MODEL, *TRAIN, "--epochs", 1, *there, "-o", tmp_path / "cls.h5")
    assert "--images" in run("explain", chain.cls, listed / "labels.csv", "-o", tmp_path / "no.h5", status=3).stderr


def test_a_place_for_images_that_is_not_there_is_told(chain, run, tmp_path, out):
    nowhere = tmp_path / "nowhere"
    refused(run("crf", chain.cam, "--images", nowhere, "-o", out, status=66), f"--images {nowhere}", out=out)
    ended = run("crf", chain.cam, "-o", out, env={"XSEG_IMAGES": str(nowhere)}, status=66)
    refused(ended, "XSEG_IMAGES", out=out)


def test_a_file_that_is_no_image_is_called_so(chain, run, data, out):
    victim = photographs(data)[0]
    victim.write_text("plain text\n" * 100)
    assert "not an image of a kind that is read" in run("explain", chain.cls, data, "-o", out, status=3).stderr
    assert "failed in an earlier step" in run("crf", out, "-o", out.with_name("labels.h5")).stderr


def test_a_hint_about_labels_fits_the_data(chain, run, tmp_path, out):
    from tests.datasets.builders import pixels, png, put

    root = put(tmp_path / "flat", {f"{i}.png": png(pixels(i, 20, 20)) for i in range(3)})
    refused(run("train-cls", root, *MODEL, *TRAIN, "-o", out, status=65), "one directory per class", out=out)
    (root / "labels.csv").write_text("path,classes\n" + "".join(f"{i}.png,\n" for i in range(3)))
    told = run("train-cls", root / "labels.csv", *MODEL, *TRAIN, "-o", out, status=65)
    refused(told, "names no class", out=out)


def test_tuning_says_how_to_bring_the_other_split(chain, run, tmp_path, out):
    run("explain", chain.cls, chain.data, "--split", "val", "-o", tmp_path / "val.h5")
    command = ("evaluate", tmp_path / "val.h5", "--dataset", chain.data, "--split", "val")
    refused(run(*command, "--tune-on", "train", status=65), "--tune-with")
    refused(run(*command, "--tune-with", tmp_path / "val.h5", status=2), "--tune-on")
    assert "a bound, not a result" in run(*command, "--tune-on", "val").stderr


def test_an_empty_standard_input_is_told(run, out):
    refused(run("crf", "-", "-o", out, status=65), "standard input is empty", out=out)


@contextmanager
def small_disk(directory, size):
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    directory.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(directory)], capture_output=True)
    if done.returncode:
        pytest.skip(f"no small disk can be mounted here: {done.stderr.decode().strip()}")
    try:
        yield directory
    finally:
        subprocess.run(["umount", str(directory)], check=True)


@pytest.mark.parametrize(
    "name", ["train-cls", "explain", "crf", "affinity-train", "train-guided", "random-walk", "evaluate"]
)
def test_a_full_disk_leaves_nothing_under_the_final_name(chain, run, tmp_path, name):
    with small_disk(tmp_path / "disk", "64k") as disk:
        out = disk / "out.h5"
        command = {
            "train-cls": ("train-cls", chain.data, *MODEL, *TRAIN, "--epochs", 1, "--limit", 6),
            "explain": ("explain", chain.cls, chain.data, "--dtype", "float32"),
            "crf": ("crf", chain.cam, "--posteriors"),
            "affinity-train": ("affinity-train", chain.labels, chain.cls, "--epochs", 1, "--crop", 64, "--limit", 6),
            "train-guided": ("train-guided", chain.data, *MODEL, *TRAIN, "--masks", 2, "--epochs", 1, "--limit", 6),
            "random-walk": ("random-walk", chain.cam, chain.affinity, "--log-steps", 3, "--dtype", "float32"),
            "evaluate": ("evaluate", chain.masks, "--dataset", chain.data),
        }[name]
        # Nearly full from the start: maps of an untrained network may be all zero and compress to next to nothing.
        (disk / "filler").write_bytes(bytes((60 if name == "evaluate" else 56) << 10))
        ended = run(*command, "-o", out, status=74)
        refused(ended, out, "space")
        assert not out.exists()
        left = [path for path in disk.rglob("*") if path.is_file() and path.name not in {"filler", "run"}]
        assert [path for path in left if "tmp" in path.name or path.name.startswith(".")] == []


PART_PER_IMAGE = {"xseg.runs.sinks:FileSink.seconds": 0.0, "xseg.training.output:SECONDS": 0.0}


@pytest.mark.parametrize("name", ["train-cls", "explain", "crf", "affinity-train", "random-walk", "evaluate"])
def test_a_disk_that_fills_up_on_the_way_keeps_what_is_published_and_a_run_with_space_goes_on(
    chain, run, tmp_path, name
):
    command, size = {
        "train-cls": (("train-cls", chain.data, *MODEL, *TRAIN, "--epochs", 3, "--limit", 12), "1800k"),
        "explain": (("explain", chain.cls, chain.data, "--dtype", "float32"), "180k"),
        "crf": (("crf", chain.cam, "--posteriors"), "240k"),
        "affinity-train": (("affinity-train", chain.labels, chain.cls, "--epochs", 3, "--crop", 64, "--limit", 6),
                           "4500k"),
        "random-walk": (("random-walk", chain.cam, chain.affinity, "--log-steps", 3, "--dtype", "float32"), "180k"),
        "evaluate": (("evaluate", chain.masks, "--dataset", chain.data), "4k"),
    }[name]  # fmt: skip
    run(*command, "-o", tmp_path / "whole.h5")
    with small_disk(tmp_path / "disk", size) as disk:
        out = disk / "out.h5"
        refused(run(*command, "-o", out, status=74, settings=PART_PER_IMAGE), out, "space")
        assert not out.exists()
        left = {path: path.read_bytes() for path in disk.rglob("*") if path.is_file()}
        assert not [path for path in left if "tmp" in path.name or path.name.startswith(".")]
        assert (len(left) > 1) == (name != "evaluate")
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        again = run(*command, "-o", out)
        assert ("done already" in again.stderr) == (name != "evaluate")
        assert content(out) == content(tmp_path / "whole.h5")
        assert [path.name for path in disk.iterdir()] == ["out.h5"]


def test_four_commands_that_write_one_shard_leave_one_valid_result(chain, run, tmp_path):
    command = ("explain", chain.cls, chain.data, "--shard", "0/2")
    run(*command, "-o", tmp_path / "alone.h5")
    out = tmp_path / "out.h5"
    processes = [run.start(*command, "-o", out, settings=PART_PER_IMAGE) for _ in range(4)]
    for process in processes:
        process.wait().expect(0)
    assert content(out) == content(tmp_path / "alone.h5")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone.h5", "out.h5"]


def test_of_two_different_runs_to_one_output_one_is_refused(chain, run, tmp_path):
    out, ended = tmp_path / "out.h5", []
    processes = [run.start("crf", chain.cam, "--iterations", count, "-o", out) for count in (40, 41)]
    ended = [process.wait() for process in processes]
    assert sorted(one.status for one in ended) == [0, 73]
    (told,) = (one for one in ended if one.status == 73)
    assert "another run" in told.stderr
    kept = content(out)
    (done,) = (one for one in ended if one.status == 0)
    run(*done.args[:-1], tmp_path / "alone.h5")
    assert content(tmp_path / "alone.h5") == kept


def test_a_full_disk_behind_standard_output_is_told(chain, run):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    # Printing the finished path fails, and that must not look like success.
    done = subprocess.run(
        f"{os.sys.executable} -m xseg info {chain.cam} > /dev/full", shell=True, capture_output=True, text=True
    )
    assert done.returncode == 74
    assert done.stderr.startswith("error: ")


@pytest.mark.parametrize(
    "name", ["train-cls", "explain", "crf", "affinity-train", "train-guided", "random-walk", "evaluate"]
)
@pytest.mark.parametrize("place", ["nowhere", "directory", "file", "readonly"])
def test_an_output_that_cannot_be_created_is_told_before_the_work(chain, run, tmp_path, name, place):
    (tmp_path / "directory").mkdir()
    (tmp_path / "file").write_text("")
    out = {
        "nowhere": tmp_path / "nowhere" / "out.h5",
        "directory": tmp_path / "directory",
        "file": tmp_path / "file" / "out.h5",
        "readonly": Path("/proc/out.h5"),  # no one may create a file there, not even root
    }[place]
    command = {
        "train-cls": ("train-cls", chain.data, *MODEL, *TRAIN),
        "explain": ("explain", chain.cls, chain.data),
        "crf": ("crf", chain.cam),
        "affinity-train": ("affinity-train", chain.labels, chain.cls),
        "train-guided": ("train-guided", chain.data, chain.cls, "--masks", 2),
        "random-walk": ("random-walk", chain.cam, chain.affinity),
        "evaluate": ("evaluate", chain.masks, "--dataset", chain.data),
    }[name]
    refused(run(*command, "-o", out, status=73), out.parent if place != "directory" else out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["directory", "file"]


def test_an_image_without_any_label_becomes_all_background(chain, run, tmp_path, out):
    data = put(tmp_path / "csv", {"a.png": png(pixels(1, 40, 56)), "b.png": png(pixels(2, 40, 56))})
    names = (chain.data / "classes.txt").read_text().split()
    (data / "labels.csv").write_text(f"path,classes\na.png,{names[0]}\nb.png,\n")
    (data / "classes.txt").write_text("\n".join(names) + "\n")
    at = {name: out.with_name(f"{name}.h5") for name in ("cam", "labels", "walk", "masks", "direct")}
    run("explain", chain.cls, data / "labels.csv", "-o", at["cam"])
    assert [len(record.arrays["maps"]) for record in records(at["cam"])] == [1, 0]
    run("crf", at["cam"], "-o", at["labels"])
    run("crf", at["cam"], "--masks", "-o", at["direct"])
    run("random-walk", at["cam"], chain.affinity, "--log-steps", 3, "-o", at["walk"])
    run("crf", at["walk"], "--masks", "-o", at["masks"])
    for made, array in ((at["labels"], "labels"), (at["direct"], "masks"), (at["masks"], "masks")):
        bare = records(made)[1].arrays[array]
        assert bare.shape == (40, 56)
        assert (bare == 0).all()
    assert records(at["walk"])[1].arrays["maps/class_id"].tolist() == [0]


def odd_pictures():
    colours = pixels(7, 40, 56)
    turned = Image.Exif()
    turned[0x0112] = 6  # stored on its side: 40 x 56 pixels are shown as 56 x 40
    deep = Image.fromarray(colours[..., 0].astype(np.uint16) * 257)
    return {
        "grey.png": (encoded(Image.fromarray(colours[..., 0]), "PNG"), (40, 56)),
        "rgba.png": (encoded(Image.fromarray(np.dstack([colours, colours[..., :1]]), "RGBA"), "PNG"), (40, 56)),
        "palette.png": (encoded(Image.fromarray(colours).quantize(16), "PNG"), (40, 56)),
        "deep.png": (encoded(deep, "PNG"), (40, 56)),
        "cmyk.jpg": (encoded(Image.fromarray(colours).convert("CMYK"), "JPEG"), (40, 56)),
        "turned.jpg": (encoded(Image.fromarray(colours), "JPEG", exif=turned), (56, 40)),
        "narrow.png": (encoded(Image.fromarray(colours[:, :1]), "PNG"), (40, 1)),
        "flat.png": (encoded(Image.fromarray(colours[:1]), "PNG"), (1, 56)),
        "dot.png": (encoded(Image.fromarray(colours[:1, :1]), "PNG"), (1, 1)),
    }


@pytest.mark.slow
def test_pictures_of_every_mode_and_shape_go_through_the_chain(chain, run, tmp_path, out):
    names = (chain.data / "classes.txt").read_text().split()
    pictures = odd_pictures()
    data = put(tmp_path / "folder", {f"{names[0]}/{name}": made for name, (made, _) in pictures.items()})
    for name in names[1:]:
        put(data, {f"{name}/plain.png": png(pixels(3, 40, 56))})
    at = {name: out.with_name(f"{name}.h5") for name in ("cam", "labels", "walk", "masks")}
    run("explain", chain.cls, data, "--flip", "--scales", "1,0.5", "-o", at["cam"])
    run("crf", at["cam"], "-o", at["labels"])
    run("random-walk", at["cam"], chain.affinity, "--log-steps", 3, "-o", at["walk"])
    run("crf", at["walk"], "--masks", "-o", at["masks"])
    sizes = {Path(name).stem: size for name, (_, size) in pictures.items()}
    for made, array in ((at["cam"], "maps"), (at["labels"], "labels"), (at["walk"], "maps"), (at["masks"], "masks")):
        found = {record.id.split("/")[-1]: record for record in records(made)}
        for name, size in sizes.items():
            assert found[name].size == size
            assert found[name].arrays[array].shape[-2:] == size


def test_a_decompression_bomb_fails_alone(chain, run, data, out):
    buffer = io.BytesIO()
    Image.new("1", (20000, 20000)).save(buffer, "PNG")
    victim = photographs(data)[0]
    victim.write_bytes(buffer.getvalue())
    ended = run("explain", chain.cls, data, *FEW, "-o", out, status=3)
    assert f"failed: {victim.stem}: " in ended.stderr


def test_an_accelerator_that_is_not_there_is_told(chain, run, out, tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is one here")
    for command in (
        ("explain", chain.cls, chain.data),
        ("train-cls", chain.data, *MODEL, *TRAIN),
        ("crf", chain.cam),
        ("affinity-train", chain.labels, chain.cls),
        ("random-walk", chain.cam, chain.affinity),
    ):
        refused(run(*command, "--device", "cuda", "-o", out, status=69), "--device cuda", "--device cpu", out=out)
    promised = {"SLURM_JOB_GPUS": "0", "CUDA_VISIBLE_DEVICES": "0"}
    refused(run("explain", chain.cls, chain.data, "-o", out, status=69, env=promised), "cuda", out=out)
