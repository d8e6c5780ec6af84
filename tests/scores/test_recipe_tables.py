"""The table printers of docs/recipes read what the protocols print."""

import importlib.util
import json
from pathlib import Path

import pytest

from tests.scores.conftest import runtime
from xseg.artifacts.decode import Part
from xseg.artifacts.inspect import describe
from xseg.heatmaps.step import ExplainOptions, explain
from xseg.scores.class_specificity_step import evaluate_class_specificity
from xseg.scores.classification_step import ClassificationOptions, evaluate_classification
from xseg.scores.imagenet_seg_step import ForegroundOptions, evaluate_imagenet_seg
from xseg.scores.localisation_step import LocalisationOptions, evaluate_localisation
from xseg.scores.perturbation_step import PerturbationOptions, evaluate_perturbation
from xseg.scores.voc_multilabel_step import MultilabelOptions, evaluate_voc_multilabel

RECIPES = Path(__file__).parents[2] / "docs" / "recipes"


@pytest.fixture
def printer(monkeypatch):
    """`main` of a table printer, by name."""
    monkeypatch.syspath_prepend(RECIPES)  # where a script finds its neighbours

    def load(name):
        spec = importlib.util.spec_from_file_location(name, RECIPES / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.main

    return load


@pytest.mark.parametrize("name", ["methods_tables", "ssl_tables", "unet_tables"])
def test_nothing_measured_prints_nothing(printer, name, tmp_path, capsys):
    printer(name)(str(tmp_path))
    assert capsys.readouterr().out == ""


def unsigned_zeros(table):
    return table.replace("-0.000", "0.000").splitlines()


def test_every_protocol_of_the_recipes_has_its_table(made, printer, tmp_path, capsys):
    tables = printer("methods_tables")
    for name in ("cam", "random"):
        options = ExplainOptions(name, targets="labels,predicted")
        explain(made.cls, made.dataset, options, runtime(tmp_path / f"{name}.h5"))
    inputs, data = [str(tmp_path / f"{name}.h5") for name in ("random", "cam")], made.dataset
    curves = {"maps_of": ("predicted", "labels"), "frame": (40, 48), "replicates": 20}
    measured = {
        "specificity": evaluate_class_specificity(inputs, data, 20, runtime()),
        "localisation": evaluate_localisation(inputs, data, LocalisationOptions(replicates=20), runtime()),
        "multilabel": evaluate_voc_multilabel(inputs, data, MultilabelOptions(replicates=20), runtime()),
        "perturbation": evaluate_perturbation(inputs, None, PerturbationOptions(made.cls, **curves), runtime(limit=3)),
    }
    for preset in ("agf", "chefer"):
        options = ForegroundOptions(preset, replicates=20)
        measured[f"foreground-{preset}"] = evaluate_imagenet_seg(inputs, data, options, runtime())
    for name, (result, _, _) in measured.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(result))
    tables(str(tmp_path))
    printed = capsys.readouterr().out.strip().split("\n\n")
    assert len(printed) == 5
    other = evaluate_perturbation(inputs[::-1], None, PerturbationOptions(made.cls, **curves), runtime(limit=3))
    (tmp_path / "perturbation.json").write_text(json.dumps(other[0]))
    tables(str(tmp_path))  # whichever run comes first, the other is compared with it
    again = capsys.readouterr().out.strip().split("\n\n")[-1]
    assert sorted(unsigned_zeros(again)) == sorted(unsigned_zeros(printed[-1]))
    for table in printed:
        head, _, *rows = table.splitlines()
        assert {row.split("|")[1].strip() for row in rows} >= {"`cam`", "`random`"}
        assert {row.count("|") for row in rows} == {head.count("|")}


def test_the_tables_of_paper_002_have_a_row_for_every_network_and_every_threshold(made, printer, tmp_path, capsys):
    reference = tmp_path / "reference.h5"
    explain(made.other, made.dataset, ExplainOptions("grad-cam++", targets="labels"), runtime(reference))
    methods, classifiers = ("grad-cam", "hires-cam"), {"unet": made.cls, "plain16": made.other}
    for seed in (0, 1):
        inputs = [tmp_path / f"{net}-{seed}-{method}.h5" for net in classifiers for method in methods]
        for path in inputs:
            chosen = ExplainOptions(path.stem.split("-", 2)[2], targets="labels", map_size="model")
            explain(classifiers[path.stem.split("-")[0]], made.dataset, chosen, runtime(path, seed=seed))
        against = LocalisationOptions((str(reference),), replicates=20)
        scores, _, _ = evaluate_localisation([*map(str, inputs)], made.dataset, against, runtime())
        (tmp_path / f"localisation-{seed}.json").write_text(json.dumps(scores))
        cls = tmp_path / f"unet-{seed}.h5"
        cls.write_bytes(Path(made.cls).read_bytes())
        found, _, _ = evaluate_classification(
            [str(cls)], made.dataset, ClassificationOptions(replicates=20), runtime(seed=seed)
        )
        (tmp_path / f"accuracy-{seed}.json").write_text(json.dumps(found))
    with Part(Path(made.cls), made.cls) as part:
        (tmp_path / "unet-info.json").write_text(json.dumps(describe(part)))
    printer("unet_tables")(str(tmp_path))
    networks, table_1, *sweeps, truth = (table.splitlines() for table in capsys.readouterr().out.strip().split("\n\n"))
    # Two convolutions of 3 and 8 channels with their norms, and a head on 16.
    count = 3 * 8 * 9 + 8 + 2 * 8 + 8 * 16 * 9 + 16 + 2 * 16 + 16 * 3 + 3
    assert networks[2].startswith(f"| U-Net | {count:,} | 2 | ")
    names = ["U-Net", "plain CNN at stride 16", "a uniform map", "published, U-Net", "published, U-Net without skips"]
    assert [line.split("|")[1].strip() for line in table_1[2:]] == names
    assert [line.split("|")[1].strip() for line in sweeps[0][2:]] == [f"0.{k}" for k in range(1, 10)]
    assert len(sweeps) == len(methods)
    assert len(truth) == 2 + 4 + 1
    unet = json.loads((tmp_path / "localisation-0.json").read_text())["runs"][0]["against_reference"]["score"]
    other = json.loads((tmp_path / "localisation-1.json").read_text())["runs"][0]["against_reference"]["score"]
    low, high = sorted((unet, other))
    assert f"{(unet + other) / 2:.3f} [{low:.3f}, {high:.3f}]" in table_1[2]
    for table in (networks, table_1, *sweeps, truth):
        assert {line.count("|") for line in table} == {table[0].count("|")}
