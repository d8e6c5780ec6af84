import base64
import hashlib
import json
import re
from dataclasses import replace

import pytest

from tests.pictures.report.builders import HOSTILE, dataset, heatmaps, masks, page, perturbation_run, scores
from tests.pictures.report.test_markup import seen
from xseg.errors import BadInput, CannotCreate, UsageError
from xseg.pictures.report.collect import GalleryOptions
from xseg.pictures.report.results import Scored, section, side_by_side
from xseg.pictures.report.step import report
from xseg.runs.reporter import Silent
from xseg.runs.runtime import Runtime
from xseg.runs.target import Target
from xseg.scores.step import SegmentationOptions, evaluate


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    directory = tmp_path_factory.mktemp("report")
    data = dataset(directory / "data", classes=HOSTILE)
    inputs = [heatmaps(directory / "cam.h5", data), masks(directory / "masks.h5", data)]
    inputs.append(
        scores(
            directory / "s.h5",
            {"protocol": "perturbation", "runs": [perturbation_run(HOSTILE[0], 0.1), perturbation_run("b", 0.3)]},
        )
    )
    return directory, data, inputs, page(directory / "page.html", inputs, data)


def embedded(text):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


def test_hostile_names_are_only_ever_text(made):
    _, _, _, text = made
    found = seen(text)
    assert {tag for tag, _ in found.tags} & {"img", "b", "iframe", "object"} == {"b"}
    assert [tag for tag, _ in found.tags].count("script") == 2
    assert not [name for _, attributes in found.tags for name, _ in attributes if name.startswith("on")]
    assert "<img" not in text
    assert HOSTILE[1] in found.text
    assert embedded(text)["classes"] == list(HOSTILE)


def test_the_policy_names_the_style_and_the_program_that_are_there_and_nothing_else(made):
    _, _, _, text = made
    policy = dict(seen(text).tags[3][1])["content"]
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
    program = re.search(r"<script>(.*?)</script>", text, re.DOTALL)[1]
    for name, content in (("style-src", style), ("script-src", program)):
        expected = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{name} 'sha256-{expected}';" in policy
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy


def test_nothing_is_asked_for_from_outside(made):
    _, _, _, text = made
    addresses = [v for _, attributes in seen(text).tags for name, v in attributes if name in {"src", "href", "action"}]
    assert addresses
    assert all(address == "data:," or address.startswith("#") for address in addresses)
    assert not re.search(r"@import|url\((?!#)", text)


def test_the_same_inputs_give_the_same_bytes_whatever_the_workers(made):
    directory, data, inputs, text = made
    again = page(directory / "again.html", inputs, data)
    assert again == text


def test_every_picture_is_there_once_and_used(made):
    _, data, _, text = made
    gallery = embedded(text)
    assert len(set(gallery["pictures"])) == len(gallery["pictures"])
    used = set()
    for image in gallery["images"]:
        used |= {image["photograph"], image["truth"]}
        used |= {place for run in image["runs"] for _, place in run["heatmaps"]} | {
            run["mask"] for run in image["runs"]
        }
    assert used - {None} == set(range(len(gallery["pictures"])))
    assert [image["id"] for image in gallery["images"]] == [item.id for item in data.items]
    for uri in gallery["pictures"]:
        assert re.match(r"data:image/(png|jpeg);base64,[A-Za-z0-9+/=]+$", uri)


def test_scores_of_the_page_are_those_of_evaluate(made):
    _, data, inputs, text = made
    _, rows, _ = evaluate([str(name) for name in inputs[:2]], data, SegmentationOptions(), None, Runtime(workers=1))
    for _, run in rows:
        assert f"<td>{run['miou']:.3f}</td>" in text
        assert f"{run['miou_interval'][0]:.3f} .. {run['miou_interval'][1]:.3f}" in text
    assert "is the mean, over the background and every class" in text


@pytest.mark.parametrize("count", [1, 2])
def test_a_scores_artifact_that_says_the_same_takes_the_place_of_the_own_table(made, tmp_path, count):
    _, data, inputs, _ = made
    chosen = inputs[:count]
    result, _, _ = evaluate([str(name) for name in chosen], data, SegmentationOptions(), None, Runtime(workers=1))
    same = scores(tmp_path / "same.h5", result, protocol="segmentation")
    text = json.dumps(result).replace('"images": 6', '"images": 5')
    other = scores(tmp_path / "other.h5", json.loads(text), protocol="segmentation")
    assert page(tmp_path / "1.html", [*chosen, same], data).count("<caption>segmentation") == 1
    assert page(tmp_path / "2.html", [*chosen, other], data).count("<caption>segmentation") == 2


def test_scores_alone_make_a_page_without_gallery(made, tmp_path):
    _, _, inputs, _ = made
    text = page(tmp_path / "page.html", [inputs[2]])
    assert "application/json" not in text
    assert "polyline" in text
    assert "script><img src=x onerror=alert(1)>" in seen(text).text


def test_maps_of_no_class_have_a_heatmap_but_no_mask_and_no_score(made, tmp_path):
    _, data, _, _ = made
    text = page(tmp_path / "page.html", [heatmaps(tmp_path / "h.h5", data, agnostic=True)], data)
    runs = [image["runs"][0] for image in embedded(text)["images"]]
    assert [[class_id for class_id, _ in run["heatmaps"]] for run in runs] == [[-1]] * 6
    assert all(run["mask"] is None and "iou" not in run for run in runs)
    assert ("a", [("href", "#scores")]) not in seen(text).tags


def test_another_evaluation_with_other_options_stands_apart():
    run = perturbation_run("a", 0.2)
    one, two = Scored("1", {"seed": 0}, [("a", run)]), Scored("2", {"seed": 0}, [("b", run)])
    other = Scored("3", {"seed": 1}, [("c", run)])
    assert [group.rows for group in side_by_side([one, other, two])] == [[("a", run), ("b", run)], [("c", run)]]
    compared = Scored("4", {"seed": 0}, [("d", run), ("e", {**run, "differences": [{}]})])
    assert [len(group.rows) for group in side_by_side([one, compared])] == [1, 2]


@pytest.mark.parametrize("run", [{}, {"protocol": "nonsense"}, {"protocol": "segmentation"}, {"protocol": ["list"]}])
def test_a_result_that_no_protocol_made_is_bad_input(run):
    with pytest.raises(BadInput, match="that of a protocol"):
        section(Scored("scores.h5", {}, [("a", run)]))


def test_an_existing_page_is_kept_and_left_as_it_was(made):
    directory, data, inputs, text = made
    with pytest.raises(CannotCreate, match="exists"):
        page(directory / "page.html", inputs, data)
    assert (directory / "page.html").read_text() == text


def test_a_data_set_without_anything_to_compare_is_a_usage_error(made, tmp_path):
    _, data, inputs, _ = made
    with pytest.raises(UsageError, match="--dataset"):
        page(tmp_path / "page.html", inputs[2:], data)
    assert list(tmp_path.iterdir()) == []


def test_runs_of_other_classes_are_refused(made, tmp_path):
    _, _, inputs, _ = made
    other = dataset(tmp_path / "other")
    with pytest.raises(BadInput, match="other classes"):
        page(tmp_path / "page.html", [inputs[0], masks(tmp_path / "m.h5", other)])


def test_a_run_of_other_images_is_part_of_the_chain_alone(made, tmp_path):
    _, data, inputs, _ = made
    half = replace(data, items=data.items[:3])
    text = page(
        tmp_path / "page.html", [inputs[0], masks(tmp_path / "m.h5", replace(data, items=data.items[3:]))], half
    )
    assert embedded(text)["runs"] == ["cam.h5"]
    assert len(embedded(text)["images"]) == 3
    assert "m.h5" in text


def test_an_image_that_is_another_one_in_the_second_run_fails_there(made, tmp_path):
    _, data, inputs, _ = made
    pairs = zip(data.items, data.items[1:] + data.items[:1], strict=True)
    moved = [replace(item, path=other.path, mask=other.mask) for item, other in pairs]
    shifted = replace(data, items=tuple(moved))
    told = Silent()
    runtime = Runtime(Target(path=tmp_path / "page.html"), workers=1, reporter=told)
    done = report([str(inputs[0]), str(masks(tmp_path / "m.h5", shifted))], None, GalleryOptions(), runtime)
    assert (int(done.status), done.images) == (3, 6)
    assert "another image in another run" in told.notes[0]
