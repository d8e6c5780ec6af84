"""On an accelerator: the same results as on the CPU, and memory that runs out is no end.

Running out of memory is tested without an accelerator too: the error is the same, raised by hand.
"""

import numpy as np
import pytest
import torch

from tests.cli.conftest import MODEL, TRAIN
from tests.cli.read import records, weights
from xseg.affinity.step import HeadOptions, WalkOptions, walk
from xseg.affinity.step import train as train_affinity
from xseg.affinity.train import AffinitySettings
from xseg.classifier.model import Classifier
from xseg.classifier.settings import TrainSettings
from xseg.classifier.step import ModelOptions
from xseg.classifier.step import train as train_classifier
from xseg.datasets import open_dataset
from xseg.errors import Status, Unavailable
from xseg.heatmaps.step import ExplainOptions, explain
from xseg.labels.meanfield import LatticeMeanField
from xseg.labels.step import CrfOptions, crf
from xseg.runs.runtime import Runtime
from xseg.runs.target import Target

CLOSE = 1e-4


def on(device, run, directory, *command):
    """The command's artifact made on `device`."""
    out = directory / f"{device}.h5"
    run(*command, "--device", device, "-o", out)
    return out


def raw(record):
    return record.arrays["maps"].astype(np.float64) * record.arrays["maps/scale"][:, None, None]


def assert_same_maps(one, other):
    for ours, theirs in zip(records(one), records(other), strict=True):
        assert ours.id == theirs.id
        assert np.array_equal(ours.arrays["maps/class_id"], theirs.arrays["maps/class_id"])
        scale = max(1.0, float(np.abs(raw(ours)).max(initial=0)))
        assert np.abs(raw(ours) - raw(theirs)).max(initial=0) <= CLOSE * scale


def assert_same_labels(one, other, array):
    for ours, theirs in zip(records(one), records(other), strict=True):
        assert np.array_equal(ours.arrays[array], theirs.arrays[array]), ours.id


@pytest.mark.gpu
@pytest.mark.parametrize("method", ["cam", "grad-cam", "layer-cam", "input-x-gradient", "random"])
def test_explain_gives_the_maps_of_the_cpu(chain, run, tmp_path, method):
    command = ("explain", chain.cls, chain.data, "--method", method, "--dtype", "float32", "--flip",
               "--scales", "1,0.5")  # fmt: skip
    assert_same_maps(on("cpu", run, tmp_path, *command), on("cuda", run, tmp_path, *command))


@pytest.mark.gpu
@pytest.mark.parametrize(("options", "array"), [((), "labels"), (("--masks",), "masks")])
def test_crf_gives_the_labels_of_the_cpu(chain, run, tmp_path, options, array):
    command = ("crf", chain.walk if array == "masks" else chain.cam, *options, "--backend", "lattice")
    assert_same_labels(on("cpu", run, tmp_path, *command), on("cuda", run, tmp_path, *command), array)


@pytest.mark.gpu
def test_segment_gives_the_posterior_of_the_cpu(chain, run, tmp_path):
    command = ("segment", chain.seg, chain.data, "--heatmaps", "--dtype", "float32", "--least", 0, "--flip",
               "--scales", "1,0.75", "--window", 48)  # fmt: skip
    assert_same_maps(on("cpu", run, tmp_path, *command), on("cuda", run, tmp_path, *command))


@pytest.mark.gpu
def test_crf_posteriors_are_those_of_the_cpu(chain, run, tmp_path):
    command = ("crf", chain.cam, "--posteriors", "--backend", "lattice")
    made = [records(on(device, run, tmp_path, *command)) for device in ("cpu", "cuda")]
    for ours, theirs in zip(*made, strict=True):
        for name in ("low", "high"):
            # Stored as float16: half a step near 1 is 2.4e-4, so equal before rounding means one step after it.
            apart = np.abs(ours.arrays[name].astype(float) - theirs.arrays[name].astype(float))
            assert apart.max(initial=0) <= CLOSE + 2**-11


@pytest.mark.gpu
def test_random_walk_gives_the_maps_of_the_cpu(chain, run, tmp_path):
    command = ("random-walk", chain.cam, chain.affinity, "--dtype", "float32")
    assert_same_maps(on("cpu", run, tmp_path, *command), on("cuda", run, tmp_path, *command))


def assert_same_weights(one, other):
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        if array.dtype.kind == "f":
            assert np.abs(array - theirs[name]).max(initial=0) <= CLOSE * max(1.0, float(np.abs(array).max())), name
        else:
            assert np.array_equal(array, theirs[name]), name


@pytest.mark.gpu
def test_train_cls_gives_the_weights_of_the_cpu_after_some_steps(chain, run, tmp_path):
    # A small rate and kept statistics: what is compared is arithmetic, not how training amplifies rounding.
    command = ("train-cls", chain.data, *MODEL, *TRAIN, "--epochs", 1, "--lr", 1e-4, "--freeze-bn")
    assert_same_weights(on("cpu", run, tmp_path, *command), on("cuda", run, tmp_path, *command))


@pytest.mark.gpu
def test_affinity_train_gives_the_weights_of_the_cpu_after_some_steps(chain, run, tmp_path):
    command = ("affinity-train", chain.labels, chain.cls, "--epochs", 1, "--crop", 64, "--batch-size", 6,
               "--optimizer", "sgd", "--lr", 1e-3)  # fmt: skip
    assert_same_weights(on("cpu", run, tmp_path, *command), on("cuda", run, tmp_path, *command))


@pytest.mark.gpu
def test_train_guided_gives_the_weights_of_the_cpu_after_some_steps(chain, run, tmp_path):
    command = ("train-guided", chain.data, *MODEL, *TRAIN, "--masks", 8, "--epochs", 1, "--lr", 1e-4, "--freeze-bn",
               "--optimizer", "sgd")  # fmt: skip
    assert_same_weights(on("cpu", run, tmp_path, *command), on("cuda", run, tmp_path, *command))


@pytest.mark.gpu
def test_evaluate_scores_what_an_accelerator_made_as_what_the_cpu_made(chain, run, tmp_path):
    made = [on(device, run, tmp_path, "random-walk", chain.cam, chain.affinity) for device in ("cpu", "cuda")]
    scores = [run("evaluate", one, "--dataset", chain.data, "--json").json for one in made]
    assert scores[0]["miou"] == pytest.approx(scores[1]["miou"], abs=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["train-cls", "train-guided", "explain"])
def test_mixed_precision_runs_and_is_another_run(chain, run, tmp_path, name):
    command = {
        "train-cls": ("train-cls", chain.data, *MODEL, *TRAIN, "--epochs", 1, "--limit", 6),
        "train-guided": ("train-guided", chain.data, *MODEL, *TRAIN, "--masks", 3, "--epochs", 1, "--limit", 6),
        "explain": ("explain", chain.cls, chain.data),
    }[name]
    for amp in ("--amp", "--no-amp"):
        run(*command, amp, "--device", "cuda", "-o", tmp_path / f"{amp}.h5")
    facts = [run("info", tmp_path / f"{amp}.h5", "--json").json for amp in ("--amp", "--no-amp")]
    assert facts[0]["run"] != facts[1]["run"]


@pytest.mark.gpu
def test_a_batch_too_large_for_the_memory_is_halved(chain, equal_sizes, monkeypatch, tmp_path):
    options = ExplainOptions(size=768, dtype="float32")

    def made(name):
        out = tmp_path / f"{name}.h5"
        explain(str(chain.cls), equal_sizes, options, Runtime(Target(path=out), device="cuda", batch_size=8))
        return out

    plain = made("plain")
    needed = torch.cuda.max_memory_reserved()
    tried = record_batches(monkeypatch)
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.7 * needed / torch.cuda.get_device_properties(0).total_memory)
    try:
        halved = made("halved")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert tried[0] == 8
    assert min(tried) < 8
    assert_same_maps(plain, halved)


def record_batches(monkeypatch, most=None):
    """Sizes of the batches a classifier is given from now on; more than `most` images do not fit."""
    real, tried = Classifier.forward, []

    def forward(self, images):
        if tuple(images.shape[-2:]) == tuple(self.config.input_size):  # looked at to find layers, not an image
            return real(self, images)
        tried.append(len(images))
        if most is not None and len(images) > most:
            raise torch.OutOfMemoryError("CUDA out of memory (as a test says)")
        return real(self, images)

    monkeypatch.setattr(Classifier, "forward", forward)
    return tried


# What follows runs without an accelerator: forward passes of more than two images say that memory ran out.


@pytest.fixture
def small_memory(monkeypatch):
    """A device that holds two images at a time; the sizes of the batches that were tried."""
    return record_batches(monkeypatch, most=2)


def runtime(path, **how):
    return Runtime(target=Target(path=path), device="cpu", workers=1, **how)


@pytest.fixture
def equal_sizes(chain, tmp_path):
    """Images of one size, so that batches are as large as asked for."""
    from tests.datasets.builders import pixels, png, put

    names = (chain.data / "classes.txt").read_text().split()
    root = put(tmp_path / "equal", {f"{i}.png": png(pixels(i, 48, 48)) for i in range(8)})
    rows = "".join(f"{i}.png,{names[i % len(names)]}\n" for i in range(8))
    (root / "labels.csv").write_text("path,classes\n" + rows)
    (root / "classes.txt").write_text("\n".join(names) + "\n")
    return open_dataset(root / "labels.csv")


def test_explain_halves_the_batch_until_it_fits(chain, small_memory, equal_sizes, tmp_path):
    made, plain = tmp_path / "made.h5", tmp_path / "plain.h5"
    options = ExplainOptions(dtype="float32")
    assert explain(str(chain.cls), equal_sizes, options, runtime(made, batch_size=8)) == Status.OK
    assert max(small_memory) == 8
    probed = [1]  # whether the network takes pictures of 32 pixels
    assert sorted(small_memory) == [*probed, 2, 2, 2, 2, 4, 4, 8]
    assert explain(str(chain.cls), equal_sizes, options, runtime(plain, batch_size=2)) == Status.OK
    assert_same_maps(made, plain)


def test_an_image_that_does_not_fit_alone_is_told(chain, equal_sizes, monkeypatch, tmp_path):
    record_batches(monkeypatch, most=0)
    with pytest.raises(Unavailable, match="one image"):
        explain(str(chain.cls), equal_sizes, ExplainOptions(), runtime(tmp_path / "out.h5"))
    assert not (tmp_path / "out.h5").exists()


def test_train_cls_splits_the_batch_until_it_fits(chain, small_memory, tmp_path):
    data = open_dataset(chain.data, split="train").limited(8)
    settings = TrainSettings(epochs=1, batch_size=8, crop=48, resize_low=48, resize_high=64, freeze_bn=True, lr=1e-3)
    model = ModelOptions("timm:test_efficientnet", "none")
    train_classifier(data, model, settings, None, runtime(tmp_path / "split.h5"))
    assert small_memory[0] == 8
    assert set(small_memory[3:]) == {2}
    small_memory.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classifier, "forward", lambda self, images: self.net(images))
        train_classifier(data, model, settings, None, runtime(tmp_path / "whole.h5"))
    assert_same_weights(tmp_path / "split.h5", tmp_path / "whole.h5")


def test_affinity_train_splits_the_batch_until_it_fits(chain, small_memory, tmp_path):
    settings = AffinitySettings(epochs=0.5, batch_size=8, crop=48)
    train_affinity([str(chain.labels)], str(chain.cls), HeadOptions(), settings, runtime(tmp_path / "out.h5", limit=8))
    assert small_memory[0] == 8
    assert small_memory[-1] <= 2


def test_random_walk_of_an_image_that_does_not_fit_is_told(chain, monkeypatch, tmp_path):
    record_batches(monkeypatch, most=0)
    with pytest.raises(Unavailable, match="memory"):
        walk([str(chain.cam)], str(chain.affinity), WalkOptions(steps=2), runtime(tmp_path / "out.h5"))
    assert not (tmp_path / "out.h5").exists()


def test_crf_of_an_image_that_does_not_fit_is_told(chain, monkeypatch, tmp_path):
    def infer(self, unary, images, kernels):
        raise torch.OutOfMemoryError("CUDA out of memory (as a test says)")

    monkeypatch.setattr(LatticeMeanField, "infer", infer)
    with pytest.raises(Unavailable, match="memory"):
        crf([str(chain.cam)], CrfOptions(), "lattice", runtime(tmp_path / "out.h5"))
    assert not (tmp_path / "out.h5").exists()
