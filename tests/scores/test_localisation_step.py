import io
import json
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from tests.artifacts.build import encoded
from tests.scores.conftest import runtime
from xseg.artifacts.decode import Part
from xseg.artifacts.record import Failure
from xseg.errors import BadInput, CannotCreate, Status, Stopped, UsageError
from xseg.heatmaps.step import ExplainOptions, explain
from xseg.runs.photographs import heatmaps_of
from xseg.runs.shards import Shard
from xseg.scores.localisation import locate_in_reference, locate_in_truth
from xseg.scores.localisation_step import LocalisationOptions, evaluate_localisation
from xseg.scores.table import print_table


def score(made, *names, dataset="made", told=None, reference=(), **options):
    chosen = LocalisationOptions(tuple(reference), **{"replicates": 20, **options})
    data = made.dataset if dataset == "made" else dataset
    return evaluate_localisation(list(names), data, chosen, told or runtime())


def read(path):
    with Part(path, path) as part:
        return part.header, list(part.records())


def maps_of(record):
    return [tensor.numpy() for tensor in heatmaps_of(record)]


def write(path, header, records, failures=()):
    path.write_bytes(encoded(records, header, failures))
    return str(path)


@pytest.fixture(scope="module")
def reference(made, tmp_path_factory):
    """Maps of the other classifier, in a coarser grid."""
    path = tmp_path_factory.mktemp("reference") / "reference.h5"
    explain(made.other, made.dataset, ExplainOptions("cam", map_size=(12, 16)), runtime(path))
    return str(path)


def test_the_results_are_means_over_the_stored_maps_at_image_size(made, reference):
    result, rows, status = score(made, made.gradient, reference=[reference], threshold=0.3, tolerance=3)
    assert status == Status.OK
    assert rows[0][0] == result["input"] == made.gradient
    against = {record.id: record for record in read(reference)[1]}
    truths, references = [], []
    for record in read(made.gradient)[1]:
        maps, ids = maps_of(record)
        truth = made.dataset.read_mask(made.dataset.by_id[record.id])
        truths.append(locate_in_truth(maps, ids, truth, 3, 3))
        references.append(locate_in_reference(maps, ids, *maps_of(against[record.id]), 3, (0.3,)))
    kept = [one for one in truths if one.counts["maps"]]
    found = result["against_truth"]
    assert (found["images"], found["maps"]) == (len(kept), sum(one.counts["maps"] for one in kept))
    for name in ("energy", "pointing"):
        assert found[name] == pytest.approx(np.mean([one.measures[name] for one in kept]))
        assert found["uniform_map"][name] == pytest.approx(np.mean([one.floor[name] for one in kept]))
        assert len(found[f"{name}_interval"]) == 2
    kept = [one for one in references if one.counts["maps"]]
    found = result["against_reference"]
    assert (found["images"], found["reference"], found["threshold"]) == (len(kept), reference, 0.3)
    assert found["score"] == pytest.approx(np.mean([one.score for one in kept]))
    assert found["uniform_map"]["score"] == pytest.approx(np.mean([one.floor for one in kept]))
    assert (result["protocol"], result["split"], result["missing"]) == ("localisation", "all", 0)
    assert result["images"] == 10
    json.dumps(result, allow_nan=False)


def test_without_a_data_set_all_images_are_compared_with_the_reference(made, reference):
    alone, _, _ = score(made, made.gradient, dataset=None, reference=[reference])
    both, _, _ = score(made, made.gradient, reference=[reference])
    assert alone["against_reference"] == both["against_reference"]
    assert (alone["split"], alone["against_truth"], alone["images"]) == (None, None, 10)
    few, _, _ = score(made, made.gradient, dataset=None, reference=[reference], told=runtime(limit=3))
    assert few["images"] == 3


def test_a_map_in_its_own_grid_beats_the_floor_when_it_is_its_own_reference(made):
    told = runtime()
    result, _, _ = score(made, made.cam, dataset=None, reference=[made.cam], told=told)
    assert result["against_reference"]["score"] > result["against_reference"]["uniform_map"]["score"]
    assert any("of the same classifier" in note for note in told.reporter.notes)
    told = runtime()
    score(made, made.random, dataset=None, reference=[made.cam], told=told)
    assert not told.reporter.notes  # a random map depends on no classifier


def test_several_runs_stand_side_by_side_in_json_and_table(made, reference):
    result, rows, _ = score(made, made.cam, made.random, made.rough, reference=[reference], tolerance=2)
    assert [run["input"] for run in result["runs"]] == [made.cam, made.random, made.rough]
    assert result["runs"][2]["against_truth"]["maps_of_absent_classes"] > 0  # --targets all
    assert result["runs"][2]["against_reference"]["maps_without_reference"] > 0
    out = io.StringIO()
    print_table([("[red]cam", rows[0][1]), *rows[1:]], Console(file=out, width=200))
    assert "[red]cam" in out.getvalue()
    assert "within 2 px" in out.getvalue()
    for run in result["runs"]:
        assert f"{run['against_truth']['energy']:.3f}" in out.getvalue()
        assert f"{run['against_reference']['score']:.3f}" in out.getvalue()


def test_neither_shards_nor_the_order_of_the_reference_matter(made, reference, tmp_path):
    whole, _, _ = score(made, made.random, reference=[reference])
    shards = []
    for number in range(3):
        shards.append(str(tmp_path / f"{number}.h5"))
        explain(
            made.cls, made.dataset, ExplainOptions("random"), runtime(tmp_path / f"{number}.h5", shard=Shard(number, 3))
        )
    header, records = read(reference)
    halves = [write(tmp_path / f"half-{k}.h5", header, part) for k, part in enumerate((records[5:], records[:5]))]
    parts, _, _ = score(made, *reversed(shards), reference=halves)
    for one in (whole, parts):
        del one["input"], one["against_reference"]["reference"]
    assert parts == whole


def test_images_that_the_reference_lacks_are_refused_or_counted(made, reference, tmp_path):
    header, records = read(reference)
    failed = write(tmp_path / "failed.h5", header, records[1:], [Failure(0, records[0].id, "unreadable")])
    result, _, _ = score(made, made.random, reference=[failed])
    assert result["against_reference"]["images_without_reference"] == 1
    assert result["images"] == 10
    partial = write(tmp_path / "partial.h5", header, records[:7])
    with pytest.raises(BadInput, match="images are missing from the heatmaps"):
        score(made, made.random, reference=[partial])
    result, _, status = score(made, made.random, reference=[partial], told=runtime(allow_missing=True))
    assert (result["against_reference"]["images_without_reference"], status) == (3, Status.OK)
    fewer = tmp_path / "fewer.h5"
    explain(made.other, made.dataset.limited(6), ExplainOptions("cam"), runtime(fewer))
    with pytest.raises(BadInput, match="4 of its images are not in the reference"):
        score(made, made.random, reference=[str(fewer)])
    result, _, _ = score(made, made.random, dataset=made.dataset.limited(6), reference=[str(fewer)])
    assert result["against_reference"]["images_without_reference"] == 0


def test_a_reference_of_another_picture_fails_its_image_only(made, reference, tmp_path):
    header, records = read(reference)
    other = write(tmp_path / "other.h5", header, [replace(records[0], source="0" * 64), *records[1:]])
    for dataset in (made.dataset, None):
        told = runtime()
        result, _, status = score(made, made.random, dataset=dataset, reference=[other], told=told)
        assert (status, result["missing"], result["images"]) == (Status.SOME_FAILED, 1, 9)
        assert any("from another picture" in note for note in told.reporter.notes)


def test_the_artifact_is_told_again_and_not_replaced_by_another(made, reference, tmp_path):
    path = tmp_path / "scores.h5"
    first, _, _ = score(made, made.cam, reference=[reference], told=runtime(path))
    again, rows, status = score(made, made.cam, reference=[reference], told=runtime(path))
    assert (again, status, rows) == (first, Status.OK, [(made.cam, again)])
    for changed in ({"threshold": 0.4}, {"tolerance": 15}, {"replicates": 30}):
        with pytest.raises(CannotCreate, match="another run"):
            score(made, made.cam, reference=[reference], told=runtime(path), **changed)
    with pytest.raises(CannotCreate, match="another run"):
        score(made, made.cam, told=runtime(path))


def test_bad_inputs(made, reference):
    with pytest.raises(UsageError, match="nothing to compare"):
        score(made, made.cam, dataset=None)
    for threshold in (-0.1, 1.0, float("nan")):
        with pytest.raises(UsageError, match="--reference-threshold"):
            score(made, made.cam, reference=[reference], threshold=threshold)
    with pytest.raises(UsageError, match="read once for every input"):
        score(made, made.cam, reference=["-"])
    with pytest.raises(BadInput, match="holds classifier, this step needs heatmaps"):
        score(made, made.cam, reference=[made.cls])
    with pytest.raises(BadInput, match="holds classifier, this step needs heatmaps"):
        score(made, made.cls)
    bare = tuple(replace(item, mask=None) for item in made.dataset.items)
    with pytest.raises(BadInput, match="masks are needed"):
        score(made, made.cam, dataset=replace(made.dataset, items=bare))
    with pytest.raises(BadInput, match="other classes"):
        score(made, made.cam, dataset=replace(made.dataset, classes=("x", *made.dataset.classes[1:])))


def test_a_reference_of_other_classes_is_refused(made, reference, tmp_path):
    header, records = read(reference)
    renamed = write(tmp_path / "renamed.h5", replace(header, classes=("x", *header.classes[1:])), records)
    with pytest.raises(BadInput, match=r"renamed\.h5 has other classes"):
        score(made, made.cam, dataset=None, reference=[renamed])


def test_a_signal_ends_it_and_nothing_is_written(made, reference, tmp_path):
    for dataset in (made.dataset, None):
        told = runtime(tmp_path / "scores.h5")
        told.stop.signal = 15
        with pytest.raises(Stopped):
            score(made, made.cam, dataset=dataset, reference=[reference], told=told)
        assert list(tmp_path.iterdir()) == []
