from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from xseg.artifacts import Part
from xseg.artifacts.inspect import problems
from xseg.datasets import open_dataset
from xseg.datasets.synthetic import write_synthetic
from xseg.errors import BadInput, InputMissing, Status, UsageError
from xseg.exchange.import_step import ImportOptions, import_files
from xseg.heatmaps.quantise import dequantise
from xseg.runs.runtime import Runtime
from xseg.runs.target import Target


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    directory = tmp_path_factory.mktemp("import")
    write_synthetic(directory / "data", images=4, classes=3, size=48, seed=1)
    return open_dataset(directory / "data")


def taken(source, data, out, **options):
    told = Runtime(target=Target(path=out), device="cpu", workers=0)
    status = import_files(str(source), data, ImportOptions(**options), told)
    with Part(out, str(out)) as part:
        assert not list(problems(part))
        return status, part.header, list(part.records()), part.failures, told.reporter.notes


def saved(directory, data, value):
    directory.mkdir()
    for number, item in enumerate(data.items):
        size = data.read_image(item).shape[:2]
        np.save(directory / f"{item.id}.npy", value(number, size))
    return directory


def scores(number, size, count=2):
    return np.random.default_rng(number).random((count, *size)).astype(np.float32)


def raw(record):
    return dequantise(record.arrays["maps"], record.arrays["maps/scale"])


def test_masks_are_what_their_files_hold(data, tmp_path):
    (tmp_path / "png").mkdir()
    truth = [data.read_mask(item) for item in data.items]
    for item, mask in zip(data.items, truth, strict=True):
        Image.fromarray(mask).save(tmp_path / f"png/{item.id}.png")
    status, header, records, _, _ = taken(tmp_path / "png", data, tmp_path / "out.h5")
    assert (status, header.kind, header.classes) == (Status.OK, "masks", data.classes)
    assert all(np.array_equal(one.arrays["masks"], mask) for one, mask in zip(records, truth, strict=True))
    assert [one.labels.tolist() for one in records] == [data.label_vector(item).tolist() for item in data.items]
    with pytest.raises(UsageError, match="holds masks"):
        taken(tmp_path / "png", data, tmp_path / "two.h5", signed=True)


@pytest.mark.parametrize("form", ["psa", "irn", "array"])
def test_heatmaps_of_psa_of_irn_and_of_an_array(data, tmp_path, form):
    made = {
        "psa": lambda number, size: {2: scores(number, size)[1], 0: scores(number, size)[0]},
        "irn": lambda number, size: {
            "keys": torch.tensor([0, 2]),
            "cam": torch.from_numpy(scores(number, (size[0] // 4, size[1] // 4))),
            "high_res": scores(number, size),
        },
        "array": lambda number, size: scores(number, size, 3)[[0, 1, 2]],
    }
    source = saved(tmp_path / form, data, made[form])
    _, header, records, _, _ = taken(source, data, tmp_path / "out.h5", dtype="float32")
    assert (header.kind, header.extra["map_size"], header.extra["signed"]) == ("heatmaps", "image", False)
    for number, record in enumerate(records):
        count = 3 if form == "array" else 2
        assert record.arrays["maps/class_id"].tolist() == ([1, 2, 3] if form == "array" else [1, 3])
        assert raw(record) == pytest.approx(scores(number, record.size, count), abs=1e-6)
    if form == "irn":
        _, header, records, _, _ = taken(source, data, tmp_path / "small.h5", array="cam", dtype="float32")
        assert header.extra["map_size"] == "model"
        small = tuple(side // 4 for side in records[0].size)
        assert raw(records[0]) == pytest.approx(scores(0, small), abs=1e-6)
    else:
        with pytest.raises(UsageError, match="is not a file of irn"):
            taken(source, data, tmp_path / "none.h5", array="cam")


def test_scores_with_a_background_stay_comparable(data, tmp_path):
    source = saved(
        tmp_path / "crf", data, lambda number, size: {3: scores(number, size)[1] * 5, 0: scores(number, size)[0]}
    )
    _, _, records, _, _ = taken(source, data, tmp_path / "out.h5", background=True)
    assert records[0].arrays["maps/class_id"].tolist() == [0, 3]
    scale = records[0].arrays["maps/scale"]
    assert scale[0] == scale[1] == raw(records[0]).max()
    with pytest.raises(BadInput, match="numbers 0 to 3, needed 0 to 2"):
        first_failure(taken(source, data, tmp_path / "else.h5"))


def first_failure(found):
    raise BadInput(found[3][0].reason)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (lambda size: {0: np.ones((2, 3))}, "maps of 2 x 3 pixels, the image has"),
        (lambda size: {0: np.ones(size), 1: np.ones((2, 3))}, "needed one height and width"),
        (lambda size: {7: np.ones(size)}, "numbers 7 to 7, needed 0 to 2"),
        (lambda size: {-1: np.ones(size)}, "numbers -1 to -1, needed 0 to 2"),
        (lambda size: {0: -np.ones(size)}, "negative values; give --signed"),
        (lambda size: {0: np.full(size, np.nan)}, "not finite"),
        (lambda size: {"keys": np.array([0, 1]), "high_res": np.ones((1, *size))}, "1 maps for the numbers"),
        (lambda size: {"keys": np.array([1, 1]), "high_res": np.ones((2, *size))}, "2 maps for the numbers"),
        (lambda size: {"a": 1}, "neither an array"),
        (lambda size: np.ones(size), "neither an array"),
    ],
)
def test_a_file_that_cannot_be_taken_fails_its_image_alone(data, tmp_path, value, reason):
    source = saved(tmp_path / "psa", data, lambda n, size: value(size) if n == 1 else {0: scores(n, size)[0]})
    status, _, records, failures, _ = taken(source, data, tmp_path / "out.h5")
    assert status == Status.SOME_FAILED
    assert len(records) == 3
    with pytest.raises(BadInput, match=reason):
        raise BadInput(failures[0].reason)
    assert failures[0].id == data.items[1].id


def test_signed_maps_and_an_image_without_any(data, tmp_path):
    source = saved(tmp_path / "psa", data, lambda n, size: {} if n == 0 else {1: scores(n, size)[0] - 0.5})
    status, header, records, _, _ = taken(source, data, tmp_path / "out.h5", signed=True)
    assert (status, header.extra["signed"]) == (Status.OK, True)
    assert [len(one.arrays["maps/class_id"]) for one in records] == [0, 1, 1, 1]
    assert raw(records[1])[0] == pytest.approx(scores(1, records[1].size)[0] - 0.5, abs=1e-6)


def test_files_that_are_not_there(data, tmp_path):
    source = saved(tmp_path / "psa", data, lambda n, size: {0: scores(n, size)[0]})
    (source / f"{data.items[2].id}.npy").unlink()
    status, _, records, failures, _ = taken(source, data, tmp_path / "out.h5")
    assert (status, len(records), failures[0].id) == (Status.SOME_FAILED, 3, data.items[2].id)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputMissing, match=r"no file of an image of .* is there"):
        taken(tmp_path / "empty", data, tmp_path / "none.h5")
    Image.fromarray(data.read_mask(data.items[0])).save(source / f"{data.items[0].id}.png")
    with pytest.raises(BadInput, match=r"both .png and .npy files"):
        taken(source, data, tmp_path / "both.h5")


def test_the_run_is_that_of_the_files_contents(data, tmp_path):
    one = saved(tmp_path / "one", data, lambda n, size: {0: scores(n, size)[0]})
    two = saved(tmp_path / "two", data, lambda n, size: {0: scores(n, size)[0]})
    other = saved(tmp_path / "other", data, lambda n, size: {0: scores(n + 1, size)[0]})
    runs = [taken(path, data, tmp_path / f"{path.name}.h5")[1].run for path in (one, two, other)]
    assert runs[0] == runs[1] != runs[2]
    assert taken(one, replace(data, items=data.items[:2]), tmp_path / "few.h5")[1].run != runs[0]
