import numpy as np
import pytest

from tests.datasets.builders import annotation, as_tar, as_zip, index_mask, pixels, png, put, voc_files
from xseg.datasets import FORMATS, open_dataset
from xseg.datasets.voc import object_names
from xseg.errors import BadInput, InputMissing, UsageError

IMAGE = png(pixels(0))


def voc(tmp_path, **changes):
    files = voc_files() | {name: content for name, content in changes.get("files", {}).items() if content is not None}
    for name in [name for name, content in changes.get("files", {}).items() if content is None]:
        files.pop(name)
    return put(tmp_path / "voc", files)


def ids(dataset):
    return [item.id for item in dataset.items]


def labels(dataset):
    return {item.id: item.labels for item in dataset.items}


# voc


def test_voc_takes_the_order_of_the_split_file_and_all_images_sorted_without_one(tmp_path):
    root = voc(tmp_path)
    train, everything = open_dataset(root, split="train"), open_dataset(root)
    assert (train.format, train.split, train.classes) == ("voc", "train", ("cat", "dog"))
    assert ids(train) == ["b", "a"]
    assert (ids(everything), everything.split) == (["a", "b", "c"], None)
    assert labels(everything) == {"a": (1, 2), "b": (), "c": (1,)}
    assert train.items[0].path == "JPEGImages/b.png"
    assert train.label_vector(everything.items[0]).tolist() == [1, 1]
    assert train.label_vector(train.items[0]).tolist() == [0, 0]


def test_trainers_get_train_where_it_exists_and_everything_elsewhere(tmp_path):
    assert open_dataset(voc(tmp_path), default_split="train").split == "train"
    folder = put(tmp_path / "folder", {"cat/1.png": IMAGE, "dog/2.png": IMAGE})
    assert open_dataset(folder, default_split="train").split is None


@pytest.mark.parametrize("pack", [as_tar, as_zip])
@pytest.mark.parametrize("prefix", ["plain", "VOC2012"])
def test_archives_equal_the_directory(tmp_path, pack, prefix):
    root = voc(tmp_path)
    suffix = "tar" if pack is as_tar else "zip"
    options = {} if prefix == "plain" else {"prefix": prefix if pack is as_tar else f"{prefix}/"}
    packed = open_dataset(pack(root, tmp_path / f"x.{suffix}", **options), split="train")
    plain = open_dataset(root, split="train")
    assert (packed.classes, packed.items, packed.format) == (plain.classes, plain.items, plain.format)
    for item in plain.items:
        assert np.array_equal(packed.read_image(item), plain.read_image(item))
        assert np.array_equal(packed.read_mask(item), plain.read_mask(item))


def test_voc_reads_labels_from_xml_where_there_is_no_csv_and_difficult_objects_count(tmp_path):
    xml = {f"Annotations/{stem}.xml": annotation(*names) for stem, names in {"a": ("dog", "cat"), "b": ()}.items()}
    dataset = open_dataset(voc(tmp_path, files={"labels.csv": None, **xml}))
    assert labels(dataset) == {"a": (1, 2), "b": (), "c": None}
    assert dataset.label_vector(dataset.by_id["c"]).tolist() == [255, 255]
    with pytest.raises(BadInput, match="1 of 3 images have none") as caught:
        dataset.require_labels()
    assert "'c'" in caught.value.hint


def test_without_classes_txt_names_are_those_that_occur_sorted_whatever_the_split(tmp_path):
    xml = {
        f"Annotations/{stem}.xml": annotation(name) for stem, name in {"a": "zebra", "b": "ant", "c": "mule"}.items()
    }
    root = voc(tmp_path, files={"labels.csv": None, "classes.txt": None, **xml})
    assert open_dataset(root, split="val").classes == ("ant", "mule", "zebra")
    root = voc(tmp_path / "csv", files={"classes.txt": None})
    assert open_dataset(root, split="val").classes == ("cat", "dog")


def test_main_lists_are_a_fallback_and_segmentation_lists_go_first(tmp_path):
    root = voc(tmp_path, files={"ImageSets/Main/train.txt": "c\n", "ImageSets/Main/extra.txt": "c\nb\n"})
    assert ids(open_dataset(root, split="train")) == ["b", "a"]
    assert ids(open_dataset(root, split="extra")) == ["c", "b"]


def test_lists_of_image_and_mask_paths_as_psa_writes_them_are_read(tmp_path):
    line = "/JPEGImages/a.png /SegmentationClassAug/a.png\n"
    mask = png(index_mask(9, 2))
    files = {"ImageSets/Segmentation/aug.txt": line, "SegmentationClassAug/a.png": mask}
    dataset = open_dataset(voc(tmp_path, files=files), split="aug")
    assert dataset.items[0].mask == "SegmentationClassAug/a.png"
    assert np.array_equal(dataset.read_mask(dataset.items[0]), index_mask(9, 2))


def test_lists_of_one_class_are_no_splits(tmp_path):
    with pytest.raises(BadInput, match="a -1"):
        open_dataset(voc(tmp_path, files={"ImageSets/Main/cat_train.txt": "a -1\nb 1\n"}), split="cat_train")


def test_csv_files_of_windows_with_mark_and_quotes_are_read(tmp_path):
    text = '\ufeffid,classes\r\na,"traffic light;cat"\r\nb,\r\n"c",cat\r\n'
    dataset = open_dataset(voc(tmp_path, files={"labels.csv": text, "classes.txt": None}))
    assert dataset.classes == ("cat", "traffic light")
    assert labels(dataset) == {"a": (1, 2), "b": (), "c": (1,)}


def test_a_known_name_with_a_blank_needs_no_semicolon(tmp_path):
    changes = {"classes.txt": "background\ntraffic light\ncat\n", "labels.csv": "id,classes\na,traffic light\nc,cat\n"}
    dataset = open_dataset(voc(tmp_path, files=changes))
    assert dataset.classes == ("traffic light", "cat")
    assert labels(dataset) == {"a": (1,), "b": None, "c": (2,)}


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({"labels.csv": "id,classes\na,cow\n"}, "unknown class 'cow'"),
        ({"labels.csv": "id,classes\na,cat\na,dog\n"}, "two rows for 'a'"),
        ({"labels.csv": "name;classes\na;cat\n"}, "needs the columns id,classes, found name;classes"),
        ({"labels.csv": "id,classes\na,cat,dog\n"}, "line 2: 3 fields, needed 2"),
        ({"labels.csv": 'id,classes\na,"cat\n'}, "not csv"),
        ({"labels.csv": "id,classes\na,caf\u00e9\n".encode("latin-1")}, "UTF-8"),
        ({"classes.txt": "cat\ncat\n"}, "'cat' twice"),
        ({"classes.txt": "\n"}, "lists no class"),
        ({"ImageSets/Segmentation/train.txt": "\n\n"}, "empty list"),
        ({"ImageSets/Segmentation/train.txt": "a\na\n"}, "'a' comes 2 times"),
        ({"ImageSets/Segmentation/train.txt": "../a\n"}, r"\.\./a"),
        ({"ImageSets/Segmentation/train.txt": ".. x/../y\n"}, r"\.\."),
        ({"JPEGImages/a.jpg": b""}, "share an id"),
    ],
)
def test_a_wrong_voc_set_is_bad_input_that_says_what_is_wrong(tmp_path, files, problem):
    with pytest.raises(BadInput, match=problem) as caught:
        open_dataset(voc(tmp_path, files=files), split="train")
    assert caught.value.hint


def test_a_listed_image_that_is_missing_is_told_when_it_is_read(tmp_path):
    root = voc(tmp_path, files={"ImageSets/Segmentation/more.txt": "a\nlost\n"})
    dataset = open_dataset(root, split="more")
    assert dataset.items[1].path == "JPEGImages/lost.jpg"
    with pytest.raises(InputMissing, match=r"lost\.jpg"):
        dataset.read_image(dataset.items[1])
    with pytest.raises(InputMissing, match="lost"):
        dataset.read_mask(dataset.items[1])
    assert dataset.read_image(dataset.items[0]).shape == (12, 16, 3)


@pytest.mark.parametrize("split", ["test", "../train", "train.txt"])
def test_an_unknown_split_is_a_usage_error_that_names_those_that_exist(tmp_path, split):
    with pytest.raises(UsageError, match="no such list") as caught:
        open_dataset(voc(tmp_path), split=split)
    assert caught.value.hint == "it has: train, val"


def test_a_split_of_a_format_without_lists_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="read as images") as caught:
        open_dataset(put(tmp_path / "x", {"a.png": IMAGE}), split="val")
    assert "no lists" in caught.value.hint


# xml


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_xml_with_a_document_type_is_refused_before_entities_can_grow(encoding):
    bomb = (
        f"<?xml version='1.0' encoding='{encoding}'?><!DOCTYPE a [<!ENTITY x 'xxxxxxxxxx'><!ENTITY y '&x;&x;&x;'>]>"
        "<annotation><object><name>&y;</name></object></annotation>"
    )
    with pytest.raises(BadInput, match=r"a\.xml: a document type"):
        object_names(bomb.encode(encoding), "a.xml")


@pytest.mark.parametrize(
    "data",
    [b"", b"<annotation><object>", b"\xff\xfe", b"<a><object><name> </name></object></a>", b"<a/>" + b" " * (17 << 20)],
)
def test_damaged_xml_is_bad_input(data):
    with pytest.raises(BadInput, match=r"a\.xml") as caught:
        object_names(data, "a.xml")
    assert "labels.csv" in caught.value.hint


def test_parts_of_objects_are_no_objects():
    assert object_names(annotation("cat", "dog", "cat").encode(), "a.xml") == ["cat", "dog", "cat"]


# folder


def test_folder_takes_directories_as_classes(tmp_path):
    root = put(tmp_path / "x", {"dog/1.png": IMAGE, "dog/deep/2.png": IMAGE, "a cat/3.JPG": IMAGE, "dog/notes.md": "x"})
    dataset = open_dataset(root)
    assert (dataset.format, dataset.classes) == ("folder", ("a cat", "dog"))
    assert labels(dataset) == {"a cat/3": (1,), "dog/1": (2,), "dog/deep/2": (2,)}
    assert not dataset.has_masks
    with pytest.raises(BadInput, match="masks are needed"):
        dataset.require_masks()


def test_folder_below_split_directories_shares_its_classes(tmp_path):
    root = put(tmp_path / "x", {"train/cat/1.png": IMAGE, "train/dog/1.png": IMAGE, "val/dog/2.png": IMAGE})
    assert open_dataset(root).classes == ("cat", "dog")
    assert labels(open_dataset(root, split="val")) == {"val/dog/2": (2,)}
    with pytest.raises(UsageError) as caught:
        open_dataset(root, split="test")
    assert caught.value.hint == "it has: train, val"


def test_one_directory_is_images_without_labels_until_folder_is_forced(tmp_path):
    root = put(tmp_path / "x", {"cat/1.png": IMAGE, "cat/2.png": IMAGE})
    guessed = open_dataset(root)
    assert (guessed.format, guessed.has_labels) == ("images", False)
    with pytest.raises(BadInput, match="labels are needed") as caught:
        guessed.require_labels()
    assert "--format folder" in caught.value.hint
    forced = open_dataset(root, format="folder")
    assert forced.require_labels().classes == ("cat",)
    assert forced.label_vector(forced.items[0]).tolist() == [1]
    with pytest.raises(BadInput, match="a softmax needs 2 classes or more, found 1 class"):
        forced.require_classes(2, "a softmax")
    assert forced.require_classes(1, "training") is forced


def test_train_and_val_full_of_images_are_not_taken_for_classes(tmp_path):
    assert open_dataset(put(tmp_path / "x", {"train/1.png": IMAGE, "val/2.png": IMAGE})).format == "images"


@pytest.mark.parametrize("files", [{"1.png": IMAGE, "cat/2.png": IMAGE}, {"cat/2.png": IMAGE, "a/b/3.png": IMAGE}])
def test_stray_images_are_told_where_folder_is_forced(tmp_path, files):
    with pytest.raises(BadInput, match="CLASS/image"):
        open_dataset(put(tmp_path / "x", files), format="folder")


def test_two_images_that_differ_by_suffix_only_share_an_id(tmp_path):
    with pytest.raises(BadInput, match="'cat/1' comes 2 times"):
        open_dataset(put(tmp_path / "x", {"cat/1.png": IMAGE, "cat/1.jpg": IMAGE, "dog/1.png": IMAGE}))


# csv


CSV = 'path,classes,split,mask\nimg/a.png,"cat dog",train,gt/a.png\nimg/b.png,,val,\nimg/c.v2.png,dog,train,\n'


@pytest.mark.parametrize("target", ["", "list.csv"])
def test_csv_is_given_by_itself_or_by_its_directory(tmp_path, target):
    mask = index_mask(1, 2)
    files = {"list.csv": CSV, "gt/a.png": png(mask), "other.csv": "x,y\n1,2\n"}
    files |= {f"img/{name}.png": IMAGE for name in ("a", "b", "c.v2")}
    root = put(tmp_path / "x", files)
    dataset = open_dataset(root / target)
    assert (dataset.format, dataset.classes, dataset.root) == ("csv", ("cat", "dog"), root)
    assert labels(dataset) == {"img/a": (1, 2), "img/b": (), "img/c.v2": (2,)}
    assert ids(open_dataset(root / target, split="train")) == ["img/a", "img/c.v2"]
    assert np.array_equal(dataset.read_mask(dataset.items[0]), mask)
    assert dataset.read_image(dataset.items[2]).shape == (12, 16, 3)
    with pytest.raises(InputMissing, match="no mask"):
        dataset.read_mask(dataset.items[1])


def test_csv_takes_the_order_of_classes_txt(tmp_path):
    root = put(tmp_path / "x", {"list.csv": CSV, "classes.txt": "dog\ncat\n"})
    assert open_dataset(root).classes == ("dog", "cat")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("path,classes\n", "empty list"),
        ("path,classes\n../a.png,cat\n", r"\.\./a\.png"),
        ("path,classes\n/a.png,cat\n", "/a.png"),
        ("path,classes\na.png,cat\n./a.jpg,cat\n", "'a' comes 2 times"),
        ("file,classes\na.png,cat\n", "needs the columns path,classes"),
        ("", "found nothing"),
    ],
)
def test_a_wrong_csv_is_bad_input(tmp_path, text, problem):
    root = put(tmp_path / "x", {"list.csv": text})
    with pytest.raises(BadInput, match=problem):
        open_dataset(root / "list.csv")


def test_two_csv_files_that_fit_must_be_told_apart(tmp_path):
    root = put(tmp_path / "x", {"a.csv": CSV, "b.csv": CSV})
    with pytest.raises(BadInput, match=r"found 2 \(a\.csv, b\.csv\)"):
        open_dataset(root)


# pairs


def pair_files(images="images", masks="masks"):
    files = {f"{images}/{stem}.jpg": IMAGE for stem in ("a", "b")}
    return files | {f"{masks}/{stem}.png": png(index_mask(k, 3)) for k, stem in enumerate("ab")}


@pytest.mark.parametrize(("images", "masks"), [("images", "masks"), ("img", "gt"), ("zzz", "aaa"), ("left", "right")])
def test_pairs_are_recognised_by_name_or_by_content(tmp_path, images, masks):
    dataset = open_dataset(put(tmp_path / "x", pair_files(images, masks)))
    assert (dataset.format, dataset.classes) == ("pairs", ("1", "2", "3"))
    assert ids(dataset) == [f"{images}/a", f"{images}/b"]
    assert np.array_equal(dataset.read_mask(dataset.items[1]), index_mask(1, 3))


def test_masks_of_pairs_are_no_image_level_labels(tmp_path):
    dataset = open_dataset(put(tmp_path / "x", pair_files() | {"classes.txt": "a\nb\nc\n"}))
    assert dataset.has_masks
    assert not dataset.has_labels
    with pytest.raises(BadInput, match="labels are needed, 2 of 2 images have none"):
        dataset.require_labels()


def test_pairs_have_lists_or_subdirectories_as_splits(tmp_path):
    root = put(tmp_path / "x", pair_files() | {"val.txt": "b.jpg\nlost\n", "README.txt": "hello"})
    dataset = open_dataset(root, split="val")
    assert ids(dataset) == ["images/b", "images/lost"]
    assert dataset.items[1].mask is None
    nested = {
        f"{kind}/{split}/1.png": data
        for kind, data in (("images", IMAGE), ("masks", png(index_mask(0, 2))))
        for split in ("t", "v")
    }
    assert ids(open_dataset(put(tmp_path / "y", nested), split="v")) == ["images/v/1"]


def test_two_directories_of_photographs_are_classes_not_pairs(tmp_path):
    files = {"cat/1.png": IMAGE, "dog/1.png": IMAGE}
    assert open_dataset(put(tmp_path / "x", files)).format == "folder"


def test_masks_of_0_and_255_only_are_refused_without_class_names(tmp_path):
    files = {"images/a.png": IMAGE, "masks/a.png": png(np.full((12, 16), 255, np.uint8))}
    with pytest.raises(BadInput, match="255 means unknown"):
        open_dataset(put(tmp_path / "x", files))


# images and detection


def test_images_are_a_directory_one_file_or_a_list(tmp_path):
    root = put(tmp_path / "x", {"b.png": IMAGE, "deep/er/a.jpeg": IMAGE, "notes.md": "", "few.txt": "deep/er/a.jpeg\n"})
    assert ids(open_dataset(root)) == ["b", "deep/er/a"]
    single = open_dataset(root / "b.png")
    assert (ids(single), single.root, single.classes) == (["b"], root, ())
    assert single.label_vector(single.items[0]).shape == (0,)
    assert ids(open_dataset(root / "few.txt")) == ["deep/er/a"]
    (root / "few.txt").write_text(f"{root}/b.png\n")
    assert open_dataset(root / "few.txt").items[0].path == "b.png"
    (root / "few.txt").write_text(f"{tmp_path}/b.png\n")
    with pytest.raises(BadInput, match=r"few\.txt"):
        open_dataset(root / "few.txt")


@pytest.mark.parametrize("files", [{"readme.md": "x"}, {"list.txt": ""}])
def test_nothing_to_read_is_bad_input(tmp_path, files):
    root = put(tmp_path / "x", files)
    with pytest.raises(BadInput, match=r"no image found|empty list"):
        open_dataset(root / "list.txt" if "list.txt" in files else root)


def test_a_directory_too_high_up_is_told_instead_of_reading_masks_as_images(tmp_path):
    put(tmp_path / "kit" / "VOC2012", voc_files())
    with pytest.raises(BadInput, match="lies deeper") as caught:
        open_dataset(tmp_path / "kit")
    assert "VOC2012" in caught.value.hint
    assert open_dataset(tmp_path / "kit", format="images").format == "images"


def test_places_and_formats_that_do_not_exist_are_told(tmp_path):
    with pytest.raises(InputMissing, match="nowhere"):
        open_dataset(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="unknown dataset format 'vocc'") as caught:
        open_dataset(tmp_path, format="vocc")
    assert "voc" in caught.value.hint
    put(tmp_path, {"a.weights": "x"})
    with pytest.raises(BadInput, match="no image found"):
        open_dataset(tmp_path / "a.weights")


@pytest.mark.parametrize("name", ["voc", "folder", "csv", "pairs"])
def test_a_forced_format_that_does_not_fit_says_what_it_needs(tmp_path, name):
    root = put(tmp_path / "x", {"a.png": IMAGE})
    with pytest.raises(BadInput, match=r"needed|needs") as caught:
        open_dataset(root, format=name)
    assert caught.value.hint


def test_the_registry_lists_the_formats():
    assert {"csv", "folder", "images", "pairs", "voc"} <= set(FORMATS.names())


def test_ids_with_control_characters_are_refused(tmp_path):
    root = put(tmp_path / "x", {"a\nb.png": IMAGE})
    with pytest.raises(BadInput, match="control"):
        open_dataset(root)


# Dataset


def test_a_mask_of_another_size_is_bad_input_with_both_sizes(tmp_path):
    root = voc(tmp_path, files={"SegmentationClass/a.png": png(index_mask(0, 2, 12, 17))})
    dataset = open_dataset(root)
    with pytest.raises(BadInput, match="12 x 17 pixels, the image has 12 x 16"):
        dataset.read_mask(dataset.items[0])
    with pytest.raises(BadInput, match="the image has 3 x 4"):
        dataset.read_mask(dataset.items[0], size=(3, 4))
    assert dataset.read_mask(dataset.items[0], size=(12, 17)).shape == (12, 17)


def test_masks_must_hold_known_ids(tmp_path):
    mask = index_mask(0, 2)
    mask[3, 3] = 7
    dataset = open_dataset(voc(tmp_path, files={"SegmentationClass/a.png": png(mask)}))
    with pytest.raises(BadInput, match=r"a\.png: ids must be 0\.\.2 or 255, found 7"):
        dataset.read_mask(dataset.items[0])


def test_label_maps_are_wide_exactly_where_there_are_over_254_classes(tmp_path):
    wide = np.array([[0, 1, 65535]], np.uint16)
    narrow = np.array([[0, 1, 255]], np.uint8)
    for count, dtype, unknown in ((254, np.uint8, 255), (255, np.uint16, 65535)):
        for name, mask in (("wide", wide), ("narrow", narrow)):
            files = {"classes.txt": "".join(f"c{k}\n" for k in range(count)), "images/a.png": png(pixels(0, 1, 3))}
            dataset = open_dataset(put(tmp_path / f"{count}{name}", files | {"masks/a.png": png(mask)}))
            found = dataset.read_mask(dataset.items[0])
            assert found.dtype == dtype
            assert found.tolist() == [[0, 1, unknown]]


def test_limits_and_selections_keep_the_order(tmp_path):
    dataset = open_dataset(voc(tmp_path), split="train")
    assert ids(dataset.limited(1)) == ["b"]
    assert dataset.limited(None) is dataset
    assert ids(dataset.selected(["a", "b"])) == ["b", "a"]
    with pytest.raises(BadInput, match="no image 'c'"):
        dataset.selected(["c"])


def test_one_corrupt_image_leaves_the_others_readable(tmp_path):
    dataset = open_dataset(voc(tmp_path, files={"JPEGImages/a.png": IMAGE[:60]}))
    with pytest.raises(BadInput, match=r"JPEGImages/a\.png"):
        dataset.read_image(dataset.items[0])
    assert dataset.read_image(dataset.items[1]).shape == (12, 16, 3)


@pytest.mark.data
@pytest.mark.parametrize(("split", "count"), [("train", 663), ("val", 369), ("train_aug", 2000)])
def test_real_photographs_have_the_counts_they_should(shared, split, count):
    assert len(open_dataset(shared("data/voc-subset"), split=split).require_labels().require_masks()) == count


@pytest.mark.data
@pytest.mark.parametrize("split", ["val", "train_aug"])
def test_labels_of_real_photographs_equal_those_of_their_masks(shared, split):
    dataset = open_dataset(shared("data/voc-subset"), split=split)
    assert len(dataset.classes) == 20
    for item in dataset.items[:: 1 if split == "val" else 8]:
        present = np.bincount(dataset.read_mask(item).ravel()).nonzero()[0]
        assert item.labels == tuple(present[(present > 0) & (present < 255)]), item.id
