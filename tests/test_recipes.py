"""Every command of every recipe is one that xseg has, with options that it takes."""

import os
import subprocess
from pathlib import Path

import pytest
import typer.main

RECIPES = Path(__file__).parents[1] / "docs/recipes"
RECORDER = """#!/usr/bin/env bash
printf '%s\\0' "$@" >> "$CALLS"
printf '\\n\\0' >> "$CALLS"
echo '{"background_threshold": 0.3}'
"""
COMMON = {
    "DATA": "{data}",
    "CLS": "cls.h5",
    "TRAIN": "{data}",
    "TEST": "{data}",
    "WEIGHTS": "hub",
}
CASES = [
    ("voc.sh", {}),
    ("vit.sh", {}),
    ("vit.sh", {"PRESET": "paper"}),
    ("perturbation.sh", {"STEPS": "maps scores ablations foreground"}),
    ("perturbation.sh", {"FAMILY": "vit", "SPLIT": "val", "SIZE": "224", "STEPS": "maps scores foreground"}),
    ("methods.sh", {"STEPS": "maps scores specificity sanity foreground localisation multilabel"}),
    ("unet.sh", {"STEPS": "train maps scores accuracy"}),
    (
        "guided.sh",
        {
            "NETWORK": "--model timm:resnet50 --weights hub",
            "SCRATCH": "--model multi-task-unet --model-set encoder=resnet50",
            "RUNS": "guided mt-unet unet scratch",
        },
    ),
    ("ssl.sh", {"NETS": "one=cls.h5", "STEPS": "banks maps perturbation segmentation probes figure"}),
]


@pytest.fixture
def calls(tmp_path):
    """Runs a recipe with a recorder in xseg's place; gives the arguments of every call."""
    recorder, log = tmp_path / "xseg", tmp_path / "calls"
    recorder.write_text(RECORDER)
    recorder.chmod(0o755)
    lists = tmp_path / "data/ImageSets/Segmentation"
    lists.mkdir(parents=True)
    for name in ("train", "val"):
        (lists / f"{name}.txt").write_text("a\nb\n")
    (tmp_path / "data/labels.csv").write_text("id,classes\na,cat\nb,cat dog\n")

    def run(recipe, settings):
        own = {key: value.format(data=tmp_path / "data") for key, value in COMMON.items()}
        environment = {**os.environ, **own, "XSEG": str(recorder), "CALLS": str(log), "OUT": str(tmp_path / "out")}
        done = subprocess.run(
            ["bash", RECIPES / recipe], env={**environment, **settings}, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return [call.strip("\0").split("\0") for call in log.read_text().split("\n\0") if call]

    return run


@pytest.mark.parametrize(("recipe", "settings"), CASES, ids=lambda value: value if isinstance(value, str) else None)
def test_every_command_of_a_recipe_parses(calls, recipe, settings):
    from xseg.cli import app

    commands = typer.main.get_command(app).commands
    made = calls(recipe, settings)
    assert len(made) >= 6
    for name, *arguments in made:
        with commands[name].make_context(name, arguments):
            pass


def test_an_option_that_xseg_lacks_would_be_found():
    from xseg.cli import app

    with pytest.raises(Exception, match="No such option"):
        typer.main.get_command(app).commands["crf"].make_context("crf", ["a.h5", "--alpha-lower", "1"])
