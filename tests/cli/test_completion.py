"""What Tab offers: in a real bash, and by the protocols of zsh and fish."""

import os
import shlex
import subprocess
import sys

import pytest

from tests.cli.launch import ROOT
from xseg.cli.completion import method_names
from xseg.datasets.synthetic import write_synthetic

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    directory = tmp_path_factory.mktemp("completion") / "data"
    write_synthetic(directory, images=8, classes=3, size=32)
    return directory


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """An executable `xseg`, as the shells call it."""
    path = tmp_path_factory.mktemp("bin") / "xseg"
    path.write_text(f"#!{sys.executable}\nfrom xseg.__main__ import main\n\nmain()\n")
    path.chmod(0o755)
    return path


def output(command, **environment):
    ended = subprocess.run(command, env=ENVIRONMENT | environment, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout


@pytest.fixture(scope="module")
def bash(program):
    """Offers of a real bash that has taken in what `xseg --show-completion bash` prints, after these words."""
    script = output([program, "--show-completion", "bash"], _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")

    def offered(*words):
        line = " ".join(map(shlex.quote, ["xseg", *map(str, words)]))
        at = f"COMP_WORDS=({line}); COMP_CWORD={len(words)}; _xseg_completion {shlex.quote(str(program))}"
        return output(["bash", "-c", f'{script}\n{at}\nprintf "%s\\n" "${{COMPREPLY[@]}}"']).split()

    return offered


def test_method_names_are_those_that_are_registered():
    from xseg.heatmaps import methods

    assert method_names("") == methods.names()


def test_bash_completes_commands_and_methods(bash):
    assert bash("expl") == ["explain"]
    assert bash("explain", "--method", "grad-cam") == ["grad-cam", "grad-cam++"]
    assert bash("train-guided", "--heatmap", "input-x") == ["input-x-gradient"]


def test_bash_completes_the_lists_of_the_data_set(bash, data):
    assert bash("explain", "cls.h5", data, "--split", "") == ["train", "val"]
    assert bash("evaluate", "cam.h5", "--dataset", data, "--split", "v") == ["val"]
    assert bash("train-cls", data, "--split", "t") == ["train"]


def test_bash_completes_class_names_one_after_another(bash, data):
    names = (data / "classes.txt").read_text().split()
    first = names[0]
    assert first in bash("explain", "cls.h5", data, "--targets", first[:2])
    assert bash("explain", "cls.h5", data, "--targets", f"{names[1]},{first}") == [f"{names[1]},{first}"]
    assert bash("explain", "cls.h5", data, "--targets", "lab") == ["labels"]


def test_nothing_is_offered_where_there_is_no_data_set(bash, tmp_path):
    assert bash("explain", "cls.h5", tmp_path / "nowhere", "--split", "t") == []
    assert bash("explain", "cls.h5", tmp_path, "--split", "t") == []
    assert bash("explain", "--split", "t") == []


@pytest.mark.parametrize(("shell", "extra"), [("zsh", {}), ("fish", {"_TYPER_COMPLETE_FISH_ACTION": "get-args"})])
def test_zsh_and_fish_are_offered_the_same(program, data, shell, extra):
    line = f"xseg explain cls.h5 {data} --split v"
    found = output([program], _XSEG_COMPLETE=f"complete_{shell}", _TYPER_COMPLETE_ARGS=line, **extra)
    assert "val" in found
    assert "train" not in found
