"""The U-Net classifier through the commands: maps at the images' resolution, AffinityNet on it, and its refusals."""

import pytest
import torch

from tests.cli.conftest import TRAIN
from tests.cli.read import records
from xseg.device import torchvision_ready

SHAPE = ("--set", "encoder=test_efficientnet", "--set", "width=8")
UNET = ("--model", "unet", *SHAPE, *TRAIN)


@pytest.fixture(scope="module")
def unet(chain, run, tmp_path_factory):
    out = tmp_path_factory.mktemp("unet") / "cls.h5"
    run("train-cls", chain.data, *UNET, "--epochs", 1, "--freeze", 2, "-o", out)
    return out


@pytest.mark.parametrize("method", ["cam", "grad-cam++"])
def test_its_own_maps_have_the_size_of_the_images(chain, run, unet, tmp_path, method):
    out = tmp_path / "maps.h5"
    run("explain", unet, chain.data, "--method", method, "--map-size", "model", "--limit", 6, "-o", out)
    found = records(out)
    assert len(found) == 6
    assert all(record.arrays["maps"].shape[1:] == tuple(record.size) for record in found)


def test_all_that_rebuilds_it_is_recorded(run, unet):
    config = run("info", unet, "--json").json
    assert config["kind"] == "classifier"
    assert run("validate", unet).status == 0
    assert config["params"]["options"] == {"encoder": "test_efficientnet", "width": 8}


def test_its_features_make_an_affinity_for_a_walk(chain, run, unet, tmp_path):
    cam, labels, affinity, walk = (tmp_path / f"{name}.h5" for name in ("cam", "labels", "affinity", "walk"))
    run("explain", unet, chain.data, "-o", cam)
    run("crf", cam, "-o", labels)
    learn = ("--epochs", 1, "--crop", 64, "--batch-size", 6)
    run("affinity-train", labels, unet, *learn, "-o", tmp_path / "last.h5")
    stages = ("--layers", "encoder.net.blocks.1,decoder.levels.1,decoder", "--widths", "8,8,8")
    run("affinity-train", labels, unet, *stages, *learn, "-o", affinity)
    run("random-walk", cam, affinity, "--log-steps", 3, "-o", walk)
    run("validate", walk)


@pytest.fixture(scope="module")
def encoder_weights(tmp_path_factory):
    torchvision_ready()
    import timm

    path = tmp_path_factory.mktemp("weights") / "encoder.pth"
    torch.save(timm.create_model("test_efficientnet", num_classes=5).state_dict(), path)
    return path


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--output-stride", 16), "--output-stride 16: a U-Net's last features"),
        (("--set", "skips=maybe"), "--set skips=maybe: needed true or false"),
        (("--set", "encoder=nothing_like_it"), "timm has no such model"),
        (("--set", "preset=large"), "one of small, paper-002"),
    ],
)
def test_what_cannot_be_is_a_usage_error(chain, run, tmp_path, words, told):
    ended = run("train-cls", chain.data, *UNET, *words, "-o", tmp_path / "cls.h5", status=2)
    assert told in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_encoders_own_head_cannot_start_the_new_one(chain, run, encoder_weights, tmp_path):
    out = tmp_path / "cls.h5"
    given = ("--model", "unet", *SHAPE, "--weights", encoder_weights, "--head-init", "transfer")
    ended = run("train-cls", chain.data, *given, *TRAIN[2:], "-o", out, status=2)
    assert "--head-init transfer" in ended.stderr
    assert "whole unet" in ended.stderr
    assert not list(tmp_path.iterdir())


def test_reading_it_at_another_stride_is_a_usage_error(chain, run, unet, tmp_path):
    out = tmp_path / "maps.h5"
    ended = run("explain", unet, chain.data, "--output-stride", 16, "-o", out, status=2)
    assert "a position for every pixel" in ended.stderr
