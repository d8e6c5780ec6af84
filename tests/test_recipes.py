"""Every command of every recipe is one that xseg has, with options that it takes."""

import os
import re
import subprocess
import sys
from itertools import pairwise
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
    ("psa.sh", {}),
    ("best.sh", {}),
    ("best.sh", {"AREA": "0.3", "SURE": "0.15,0.45", "LIMIT": "5"}),
    ("best.sh", {"WALK": "off", "CRF": "off", "VIEWS": "off", "AREA": "0.3", "SURE": "0.15,0.45"}),
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


@pytest.mark.parametrize("recipe", ["voc.sh", "vit.sh", "psa.sh", "best.sh"])
def test_a_chain_reads_nothing_that_it_has_not_made(calls, recipe):
    made = set()
    for _, *arguments in calls(recipe, {}):
        written = [after for word, after in pairwise(arguments) if word == "-o"]
        read = {word for word in arguments if word.endswith(".h5")} - set(written)
        assert read <= made
        assert not made & set(written)
        made |= set(written)


SWITCHES = {
    "TRANSFER": "train-cls", "INTERPOLATE": "train-cls", "BALANCE": "train-cls train-seg", "VIEWS": "explain",
    "LEVELS": "affinity-train", "WALK": "crf affinity-train random-walk evaluate", "SHARES": "random-walk",
    "SHARPEN": "crf", "CRF": "crf", "SEGMENTER": "random-walk crf train-seg segment evaluate",
    "CONFIDENCE": "crf train-seg", "ROUND": "segment train-seg evaluate",
}  # fmt: skip


def test_the_best_recipe_names_its_switches():
    text = (RECIPES / "best.sh").read_text()
    assert set(re.findall(r"(?:with|on) ([A-Z]+)", text.split("set -euo")[1])) == set(SWITCHES)
    assert all(re.search(rf"^#   {switch} ", text, re.MULTILINE) for switch in SWITCHES)


@pytest.mark.parametrize("switch", SWITCHES)
def test_a_switch_changes_its_own_commands_and_no_others(calls, switch):
    whole = calls("best.sh", {})
    without = calls("best.sh", {switch: "off"})[len(whole) :]  # the recorder goes on in the same file
    changed = [call for call in whole if call not in without] + [call for call in without if call not in whole]
    assert {name for name, *_ in changed} == set(SWITCHES[switch].split())


@pytest.mark.parametrize("recipe", ["psa.sh", "best.sh"])
def test_a_recipe_prints_the_chain_that_slurm_submits(tmp_path, recipe):
    environment = {**os.environ, "XSEG": "echo", "TRAIN": "VOC", "TEST": "VOC", "WEIGHTS": "hub", "OUT": str(tmp_path)}
    submit = f'bash "{RECIPES / recipe}" | tee chain.txt | "{sys.executable}" -m xseg slurm - --shards 2'
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", submit],
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(RECIPES.parents[1])},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    names = [line.split()[0] for line in (tmp_path / "chain.txt").read_text().splitlines()]
    assert names[0] == "train-cls"
    assert names[-1] == "evaluate"
    told = re.findall(r"^printf .* 'xseg ([a-z-]+)'$", done.stdout, re.MULTILINE)
    assert told == names


def test_an_option_that_xseg_lacks_would_be_found():
    from xseg.cli import app

    with pytest.raises(Exception, match="No such option"):
        typer.main.get_command(app).commands["crf"].make_context("crf", ["a.h5", "--alpha-lower", "1"])
