"""docs/recipes/methods_tables.py reads what the protocols print."""

import importlib.util
import json
from pathlib import Path

import pytest

from tests.scores.conftest import runtime
from xseg.heatmaps.step import ExplainOptions, explain
from xseg.scores.class_specificity_step import evaluate_class_specificity
from xseg.scores.imagenet_seg_step import ForegroundOptions, evaluate_imagenet_seg
from xseg.scores.localisation_step import LocalisationOptions, evaluate_localisation
from xseg.scores.perturbation_step import PerturbationOptions, evaluate_perturbation
from xseg.scores.voc_multilabel_step import MultilabelOptions, evaluate_voc_multilabel

SCRIPT = Path(__file__).parents[2] / "docs" / "recipes" / "methods_tables.py"


@pytest.fixture
def tables():
    spec = importlib.util.spec_from_file_location("methods_tables", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def test_nothing_measured_prints_nothing(tables, tmp_path, capsys):
    tables(str(tmp_path))
    assert capsys.readouterr().out == ""


def unsigned_zeros(table):
    return table.replace("-0.000", "0.000").splitlines()


def test_every_protocol_of_the_recipes_has_its_table(made, tables, tmp_path, capsys):
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
