"""The hybrid vision transformer through the commands: from labels to a walk, cut off, and by two processes."""

import signal

import pytest

from tests.cli.conftest import TRAIN
from tests.cli.launch import FLUSH
from tests.cli.read import content, same_weights
from tests.cli.test_ranks import largest_difference, start

SHAPE = (
    "--set",
    "stem=test_efficientnet",
    "--set",
    "dim=24",
    "--set",
    "heads=3",
    "--set",
    "depth=2",
    "--set",
    "grid=4",
)
HYBRID = ("--model", "hybrid-vit", *SHAPE, *TRAIN)


@pytest.fixture(scope="module")
def hybrid(chain, run, tmp_path_factory):
    out = tmp_path_factory.mktemp("hybrid") / "cls.h5"
    run("train-cls", chain.data, *HYBRID, "--epochs", 2, "-o", out)
    return out


def test_its_stem_feeds_the_affinity_that_spreads_its_maps(chain, run, hybrid, tmp_path):
    cam, labels, affinity, walk = (tmp_path / f"{name}.h5" for name in ("cam", "labels", "affinity", "walk"))
    run("explain", hybrid, chain.data, "--method", "grad-cam", "--layer", "patch_embed.backbone", "-o", cam)
    run("crf", cam, "-o", labels)
    trained = ("--preset", "paper-003", "--epochs", 1, "--crop", 64, "--batch-size", 6)
    run("affinity-train", labels, hybrid, *trained, "-o", affinity)
    run("random-walk", cam, affinity, "--preset", "paper-003", "--root", 3, "-o", walk)
    for path in (hybrid, affinity, walk):
        run("validate", path)
    told = run("info", affinity, "--json").json
    assert told["kind"] == "affinity"
    stages = ("--layers", "patch_embed.backbone.blocks.1,patch_embed.backbone", "--widths", "8,8")
    run("affinity-train", labels, hybrid, *stages, "--epochs", 1, "--crop", 64, "-o", tmp_path / "two.h5")


@pytest.mark.parametrize("stride", [8, 32])
def test_it_is_read_at_another_stride_than_it_learned_at(chain, run, hybrid, tmp_path, stride):
    run("explain", hybrid, chain.data, "--method", "input-x-gradient", "--output-stride", stride, "--limit", 2,
        "-o", tmp_path / "maps.h5")  # fmt: skip
    assert content(tmp_path / "maps.h5")


def test_cut_off_and_run_again_it_has_the_weights_of_a_whole_run(chain, run, hybrid, tmp_path):
    out = tmp_path / "cls.h5"
    command = ("train-cls", chain.data, *HYBRID, "--epochs", 2, "-o", out)
    settings = {"xseg.training.output:SECONDS": 0.0}
    ended = run(*command, status=None, settings=settings, die_at=(FLUSH, 4))
    assert ended.status == -signal.SIGKILL
    run(*command, settings=settings)
    assert same_weights(out, hybrid)


def test_two_processes_learn_what_one_learns(chain, run, tmp_path):
    one, two = tmp_path / "one.h5", tmp_path / "two.h5"
    command = ("train-cls", chain.data, *HYBRID, "--limit", 12, "--epochs", 2, "--freeze-bn")
    run(*command, "-o", one)
    for process in start(run, (*command, "-o", two)):
        process.wait().expect(0)
    assert largest_difference(one, two) < 1e-5


def test_a_preset_decides_what_is_not_said(chain, run, tmp_path):
    said = ("--crop", 48, "--resize-low", 48, "--resize-high", 64, "--limit", 4, "--epochs", 1)
    out = tmp_path / "cls.h5"
    run("train-cls", chain.data, "--model", "hybrid-vit", *SHAPE, "--weights", "none", *said, "--preset", "paper-003",
        "-o", out)  # fmt: skip
    training = run("info", out, "--json").json["params"]["training"]
    assert (training["lr"], training["batch_size"], training["weight_decay"]) == (5e-3, 8, 1e-4)
    assert (training["crop"], training["epochs"]) == (48, 1)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--set", "dim=25"), "cannot be shared by 3 heads"),
        (("--set", "stem=nothing_like_it"), "timm has no such model"),
        (("--preset", "paper-004"), "one of fine-tune, psa, paper-003"),
    ],
)
def test_what_cannot_be_is_a_usage_error(chain, run, tmp_path, words, told):
    ended = run("train-cls", chain.data, *HYBRID, *words, "-o", tmp_path / "cls.h5", status=2)
    assert told in ended.stderr
    assert "Traceback" not in ended.stderr
