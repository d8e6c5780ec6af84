"""What Tab offers: in a real bash, and by the protocols of zsh and fish."""

import dataclasses
import os
import pty
import select
import shlex
import subprocess
import sys
import time
from typing import get_args, get_type_hints

import pytest

from tests.cli.launch import ROOT
from xseg.cli.completion import method_names
from xseg.cli.settings import method_parameters, model_parameters
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


def choices(kind):
    return ("true", "false") if kind is bool else tuple(one for one in get_args(kind) if isinstance(one, str))


def test_parameters_read_from_the_sources_are_those_of_the_methods():
    from xseg.heatmaps import methods

    for name, method in methods:
        kinds = get_type_hints(method)
        expected = [(field.name, choices(kinds[field.name])) for field in dataclasses.fields(method) if field.init]
        assert list(method_parameters(name).items()) == expected
    assert method_parameters("somebody's own") == {}


def test_parameters_read_from_the_sources_are_those_of_the_models():
    from xseg.classifier.own import OWN_KINDS
    from xseg.classifier.sources import _OPTIONS

    for name, kind in OWN_KINDS.items():
        kinds = get_type_hints(kind.shape)
        fields = {field.name: choices(kinds[field.name]) for field in dataclasses.fields(kind.shape)}
        assert model_parameters(name) == {"preset": tuple(kind.shape.presets), **fields}
    assert set(model_parameters("timm:resnet18")) == set(model_parameters("resnet18")) == _OPTIONS["timm"]
    assert set(model_parameters("torchvision:resnet18")) == _OPTIONS["torchvision"]
    assert model_parameters("package.module:factory") == {}


def test_bash_completes_parameters_and_their_choices(bash):
    assert bash("explain", "--set", "") == ["relu=", "sqrt="]  # of cam, the default
    assert bash("explain", "--method", "lrp", "--set", "b") == ["batch_norm=", "bias=", "bounds="]
    assert bash("explain", "--method", "lrp", "--set", "bat") == ["batch_norm=folded", "batch_norm=identity"]
    assert bash("explain", "--method", "rise", "--set", "mas") == ["masks="]
    assert bash("train-guided", "--set", "conv=z-") == ["conv=z-box", "conv=z-plus"]  # of lrp, the default
    assert bash("train-guided", "--model", "unet", "--model-set", "pas") == ["passing=false", "passing=true"]
    assert bash("train-cls", "data", "--model", "hybrid-vit", "--set", "preset=") == [
        "preset=paper-003",
        "preset=small",
    ]
    assert bash("train-seg", "m.h5", "--model", "timm:resnet18", "--set", "drop_r") == ["drop_rate="]
    assert bash("train-cls", "data", "--set", "x") == []


def test_bash_is_offered_what_follows_where_it_has_broken_the_word(bash):
    assert bash("explain", "--set", "relu", "=") == ["false", "true"]
    assert bash("explain", "--set", "relu", "=", "t") == ["true"]
    assert bash("explain", "--set", "relu", "=", "true", "--set", "sq") == ["sqrt=false", "sqrt=true"]
    assert bash("explain", "--method", "=", "rap", "--set", "start", "=", "l") == ["logit"]
    assert bash("explain", "--method", "=", "hires") == ["hires-cam"]


def test_tab_completes_a_parameter_in_an_interactive_bash(program, tmp_path):
    (tmp_path / "rc").write_text(
        output([program, "--show-completion", "bash"], _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
        + f"\nPATH={shlex.quote(str(program.parent))}:$PATH\nPS1=ready:\nbind 'set bell-style none'\n"
    )
    ours, theirs = pty.openpty()
    started = ["bash", "--noprofile", "--rcfile", "rc", "-i"]
    told = {"cwd": tmp_path, "env": ENVIRONMENT | {"TERM": "dumb"}, "start_new_session": True}
    with subprocess.Popen(started, stdin=theirs, stdout=theirs, stderr=theirs, **told) as shell:
        os.close(theirs)
        try:
            shown(ours, "ready:")
            os.write(ours, b"xseg explain --method smooth-grad --set va\t")
            assert shown(ours, "variant=").endswith("--set variant=")
            os.write(ours, b"off\t")
            assert shown(ours, "official") == "official"
        finally:
            shell.kill()
            os.close(ours)


def shown(handle, expected):
    text, end = "", time.monotonic() + 60
    while expected not in text and time.monotonic() < end:
        if select.select([handle], [], [], 1)[0]:
            text += os.read(handle, 4096).decode()
    return text.rstrip()
