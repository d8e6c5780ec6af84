import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from xseg.artifacts import Part
from xseg.artifacts.record import Record
from xseg.datasets import open_dataset
from xseg.datasets.index import Dataset, Item
from xseg.datasets.synthetic import write_synthetic
from xseg.errors import BadInput, InputMissing, Status, UsageError
from xseg.exchange.annotations import Annotations
from xseg.exchange.formats import Coco
from xseg.exchange.import_step import ImportOptions, import_files
from xseg.exchange.run_lengths import packed, run_lengths
from xseg.runs.runtime import Runtime
from xseg.runs.target import Target

CLASSES = ("cat", "dog", "tree")
SQUARE = [[1, 1, 3, 1, 3, 3, 1, 3]]


def images(*paths, classes=CLASSES):
    items = tuple(Item(path.rpartition(".")[0], path) for path in paths)
    return Dataset("data", "images", None, tuple(classes), items, None)


def read(found, dataset):
    return Annotations(json.dumps(found).encode(), "found.json", dataset)


def whole(*annotations, names=CLASSES, paths=("a.jpg",)):
    return {
        "images": [{"id": number, "file_name": path} for number, path in enumerate(paths, 1)],
        "annotations": list(annotations),
        "categories": [{"id": 10 * number, "name": name} for number, name in enumerate(names, 1)],
    }


def one(category, mask, **more):
    lengths = run_lengths(np.array(mask, bool))
    counts = lengths if more.pop("plain", False) else packed(lengths)
    return {
        "image_id": 1,
        "category_id": category,
        "segmentation": {"size": list(np.shape(mask)), "counts": counts},
    } | more


maps = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(0, 3))


@given(st.lists(maps, min_size=1, max_size=4))
def test_what_is_exported_comes_back_as_it_was(label_maps):
    form = Coco(CLASSES, None)
    dataset = images(*(f"deep/{number}.jpg" for number in range(len(label_maps))))
    for number, (item, label_map) in enumerate(zip(dataset.items, label_maps, strict=True)):
        labels = np.zeros(len(CLASSES), np.uint8)
        list(form.files(Record(number, item.id, item.path, label_map.shape, "", labels, {"masks": label_map})))
    ((name, data),) = form.last()
    found = Annotations(data, name, dataset)
    for item, label_map in zip(dataset.items, label_maps, strict=True):
        back = found.label_map(item.id, label_map.shape)
        assert back.dtype == np.uint8
        assert np.array_equal(back, label_map)


@given(st.data())
def test_overlaps_show_the_smaller_and_the_later_of_equals(data):
    shape = data.draw(hnp.array_shapes(min_dims=2, max_dims=2, max_side=6))
    layers = data.draw(st.lists(st.tuples(st.integers(1, 3), hnp.arrays(bool, shape), st.booleans()), max_size=5))
    rows = [one(10 * number, mask, iscrowd=int(crowd), plain=crowd) for number, mask, crowd in layers]
    seen = read(whole(*rows), images("a.jpg")).label_map("a", shape)
    for place in np.ndindex(shape):
        over = [(mask.sum(), -order, number) for order, (number, mask, crowd) in enumerate(layers)
                if mask[place] and not crowd]  # fmt: skip
        crowded = any(mask[place] for _, mask, crowd in layers if crowd)
        assert seen[place] == (min(over)[2] if over else 255 if crowded else 0)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_polygons_of_one_annotation_are_its_parts():
    coco = pytest.importorskip("pycocotools.mask")
    polygons = [[0, 0, 7, 1, 3, 6.5], [5, 5, 9, 5, 9, 9, 4.2, 8], [2, 2, 3, 2, 3, 3]]
    expected = coco.decode(coco.merge(coco.frPyObjects(polygons, 10, 12)))
    row = {"image_id": 1, "category_id": 20, "segmentation": polygons}
    assert np.array_equal(read(whole(row), images("a.jpg")).label_map("a", (10, 12)), 2 * expected)


def test_results_count_the_classes_and_name_the_images_by_number_or_name():
    rows = [one(2, [[1, 0]]) | {"image_id": 7, "score": 0.5}, one(3, [[0, 1]]) | {"image_id": "b"}]
    dataset = images("x/000007.jpg", "x/b.jpg", "x/c.jpg")
    found = read(rows, dataset)
    assert [found.label_map(item.id, (1, 2)).tolist() for item in dataset.items] == [[[2, 0]], [[0, 3]], [[0, 0]]]
    assert found.bare([item.id for item in dataset.items]) == 1


@pytest.mark.parametrize("file_name", ["x/a.jpg", "x/a", "a.jpg", "elsewhere/a.png"])
def test_images_are_found_by_file_name(file_name):
    dataset = images("x/a.jpg", "x/1.jpg")
    found = read(whole(one(10, [[1]]), paths=[file_name]), dataset)
    assert found.label_map("x/a", (1, 1)).tolist() == [[1]]
    assert found.bare(["x/1"]) == 0
    with pytest.raises(InputMissing, match=r"x/1 is not in found.json"):
        found.label_map("x/1", (1, 1))


def test_a_background_is_none_of_the_classes_and_many_classes_need_wide_ids():
    rows = [one(10, [[0, 1]]), one(20, [[1, 1]])]
    assert read(whole(*rows, names=("background", "dog")), images("a.jpg")).label_map("a", (1, 2)).tolist() == [[2, 0]]
    names = [f"c{number}" for number in range(300)]
    rows = [one(3000, [[1, 0]]), one(10, [[0, 1]], iscrowd=1)]
    seen = read(whole(*rows, names=names), images("a.jpg", classes=names)).label_map("a", (1, 2))
    assert (seen.dtype, seen.tolist()) == (np.uint16, [[300, 65535]])


def test_categories_that_are_no_classes_are_told_by_name():
    rows = [one(10, [[1]]), one(20, [[1]]), one(40, [[1]])]
    with pytest.raises(BadInput, match=r"'zebra', 'kite': no such class in data") as raised:
        read(whole(*rows, names=("zebra", "kite", "unused", "cat")), images("a.jpg"))
    assert "classes.txt" in raised.value.hint
    with pytest.raises(BadInput, match="number 4: no such class") as raised:
        read([one(4, [[1]]) | {"image_id": "a"}], images("a.jpg"))
    assert "1 to 3" in raised.value.hint
    elsewhere = one(10, [[1]]) | {"image_id": 2}  # another image's do not matter
    assert read(whole(elsewhere, names=["zebra"], paths=["a.jpg", "b.jpg"]), images("a.jpg")).bare(["a"]) == 0


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        ({"images": []}, "has no annotations"),
        (3, "has no annotations"),
        ({"annotations": {}}, "annotations: not a list"),
        ([{"image_id": 1}], "number 0 has no category_id"),
        ([{"category_id": 1, "image_id": 1.5}], "number 0 has no image_id"),
        (["a"], "number 0 has no image_id"),
        ({"annotations": [], "images": [{"file_name": "a.jpg"}]}, "images: number 0 has no id"),
        ({"annotations": [], "categories": [{"id": 1, "name": 3}]}, "categories: number 0 has no name"),
        (whole(paths=["b.jpg"]), "no image of data is in it, as x/a.jpg"),
        ([], "no image of data is in it"),
        (whole(paths=["a.jpg"]), "a.jpg may be x/a or y/a"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused(found, problem):
    with pytest.raises((BadInput, InputMissing), match=problem):
        read(found, images("x/a.jpg", "y/a.jpg"))


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[" * 200_000])
def test_what_is_no_json_is_refused(data):
    with pytest.raises(BadInput, match="not JSON"):
        Annotations(data, "found.json", images("a.jpg"))


@pytest.mark.parametrize(
    ("segmentation", "problem"),
    [
        (None, "annotation 5 has no segmentation"),
        ([], "has no segmentation"),
        ({"size": [2, 3], "counts": [6]}, r"annotation 5: size 2 x 3, the image has 4 x 4"),
        ({"counts": [16]}, "size unknown"),
        ({"size": [4, 4], "counts": [5, 5]}, "runs have 10 pixels, the image 16"),
        ({"size": [4, 4], "counts": [18, -2]}, "no run lengths"),
        ({"size": [4, 4], "counts": [16.0]}, "no run lengths"),
        ({"size": [4, 4], "counts": [10**30]}, "no run lengths"),
        ({"size": [4, 4], "counts": [[16]]}, "no run lengths"),
        ({"size": [4, 4], "counts": [[1], 2]}, "annotation 5"),
        ({"size": [4, 4], "counts": ["16"]}, "no run lengths"),
        ({"size": [4, 4]}, "no run lengths"),
        ({"size": [4, 4], "counts": "a"}, "not a text of run lengths"),
        ({"size": [4, 4], "counts": ""}, "runs have 0 pixels"),
        ([[1, 1, 3, 1]], "a polygon of 4 numbers"),
        ([[1, 1, 3, 1, 2, 2, 4]], "a polygon of 7 numbers"),
        ([["a"] * 6], "no list of numbers"),
        ([[[1], 2]], "no list of numbers"),
        ([[1e9, 1, 3, 1, 3, 3]], "leaves the image"),
        ([[float("nan"), 1, 3, 1, 3, 3]], "leaves the image"),
        ([7], "a polygon of 1 numbers"),
    ],
)
def test_an_annotation_that_cannot_be_read_is_named(segmentation, problem):
    row = {"id": 5, "image_id": 1, "category_id": 10, "segmentation": segmentation}
    with pytest.raises(BadInput, match=problem):
        read(whole(row), images("a.jpg")).label_map("a", (4, 4))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    directory = tmp_path_factory.mktemp("coco") / "data"
    write_synthetic(directory, images=3, classes=3, size=32, seed=1)
    return open_dataset(directory)


def taken(source, dataset, out, **options):
    told = Runtime(target=Target(path=out), device="cpu", workers=0)
    status = import_files(str(source), dataset, ImportOptions(**options), told)
    with Part(out, str(out)) as part:
        return status, part.header, list(part.records()), part.failures, told.reporter.notes


def test_an_image_of_another_size_fails_alone(data, tmp_path):
    height, width = data.read_image(data.items[0]).shape[:2]
    found = whole(names=data.classes, paths=[item.path for item in data.items])
    found["images"][0] |= {"height": width + 1, "width": height}
    found["annotations"] = [{"id": 1, "image_id": 2, "category_id": 10, "segmentation": SQUARE}]
    (tmp_path / "annotations.json").write_text(json.dumps(found))
    status, header, records, failures, _ = taken(tmp_path, data, tmp_path / "out.h5")
    assert (status, header.kind, [one.id for one in failures]) == (Status.SOME_FAILED, "masks", [data.items[0].id])
    assert f"size {width + 1} x {height}, the image has {height} x {width}" in failures[0].reason
    assert [int(record.arrays["masks"].sum()) for record in records] == [4, 0]
    with pytest.raises(UsageError, match="holds masks"):
        taken(tmp_path / "annotations.json", data, tmp_path / "two.h5", signed=True)


def test_images_without_results_are_counted_and_the_run_is_the_files(data, tmp_path):
    runs = []
    for number, column in enumerate((1, 1, 2)):
        row = {"image_id": data.items[1].id, "category_id": 1, "segmentation": [[column, 0, 9, 0, 9, 9]]}
        (tmp_path / f"{number}.json").write_text(json.dumps([row]))
        status, header, records, _, notes = taken(tmp_path / f"{number}.json", data, tmp_path / f"{number}.h5")
        assert (status, [bool(record.arrays["masks"].any()) for record in records]) == (Status.OK, [False, True, False])
        assert notes[0] == "2 of 3 images have no annotation: all background"
        runs.append(header.run)
    assert runs[0] == runs[1] != runs[2]


def test_photographs_without_classes_get_those_of_the_file(data, tmp_path):
    photographs = open_dataset(data.root / "JPEGImages")
    assert photographs.classes == ()
    found = whole(names=("background", "dog", "cat"), paths=[item.path for item in photographs.items])
    found["categories"].reverse()
    found["annotations"] = [{"image_id": 1, "category_id": 30, "segmentation": SQUARE}]
    (tmp_path / "found.json").write_text(json.dumps(found))
    status, header, records, _, _ = taken(tmp_path / "found.json", photographs, tmp_path / "out.h5")
    assert (status, header.classes) == (Status.OK, ("dog", "cat"))
    assert np.unique(records[0].arrays["masks"]).tolist() == [0, 2]
    assert records[0].labels.tolist() == [255, 255]


def test_a_file_that_is_not_there_is_told(data, tmp_path):
    with pytest.raises(InputMissing, match=r"nowhere.json: not there; check the path"):
        taken(tmp_path / "nowhere.json", data, tmp_path / "out.h5")
