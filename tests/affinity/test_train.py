"""Training the AffinityNet: what it learns from, what it leaves alone, and that a stop changes nothing."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.classifier.nets import MODEL
from xseg.affinity.model import AffinityModel, configure
from xseg.affinity.network import AffinityNet
from xseg.affinity.train import AffinitySettings, AffinityTask, Samples, train_affinity
from xseg.artifacts.record import Record
from xseg.classifier.model import create
from xseg.errors import Stopped, UsageError
from xseg.training.checkpoint import Checkpoint

SETTINGS = AffinitySettings(epochs=2, batch_size=2, crop=32, radius=3, lr=0.01)
CPU = torch.device("cpu")


def records(count=4, posteriors=False):
    rng = np.random.default_rng(0)
    found = []
    for index in range(count):
        labels = np.zeros((40, 36), np.uint8)
        labels[8:30, 6:20] = 1 + index % 2
        labels[:, 30:] = 255
        arrays = {"labels": labels}
        if posteriors:
            low = rng.random((2, 40, 36)).astype(np.float16)
            arrays |= {"low": low, "high": low, "low/class_id": np.array([0, 1], np.int32)}
        found.append(Record(index, f"im{index}", f"im{index}.png", (40, 36), "", np.array([1, 0], np.uint8), arrays))
    return found


def picture(record):
    image = np.full((40, 36, 3), 60, np.uint8)
    image[8:30, 6:20] = 200 - 20 * record.index
    return image


def samples(**options):
    return Samples(records(**options), picture, 2)


def model(standardise=False, finetune=False, **options):
    torch.manual_seed(0)
    classifier = create(MODEL, ("a", "b"), weights="none", options={"dropout": 0.0})
    config = configure(classifier, widths=None, name="paper-003", stride=4, standardise=standardise, **options)
    return AffinityModel(classifier, AffinityNet(config), finetune)


def weights(made):
    return {key: value.clone() for key, value in made.state_dict().items()}


def test_the_backbone_stays_as_it_is_unless_asked_for():
    made = model()
    before = weights(made)
    train_affinity(made, samples(), SETTINGS, device=CPU, workers=0)
    after = weights(made)
    assert all(torch.equal(before[key], after[key]) for key in before if key.startswith("classifier."))
    assert any(not torch.equal(before[key], after[key]) for key in before if key.startswith("net."))


def test_a_backbone_with_a_rate_of_its_own_learns():
    made = model(finetune=True)
    before = weights(made)
    train_affinity(made, samples(), replace(SETTINGS, backbone_lr=0.001), device=CPU, workers=0)
    after = weights(made)
    assert any(not torch.equal(before[key], after[key]) for key in before if key.startswith("classifier."))


def test_the_loss_falls():
    made = model(standardise=True)
    history = train_affinity(made, samples(), replace(SETTINGS, epochs=20, jitter=0.0), device=CPU, workers=0)
    assert history[-1]["loss"] < 0.8 * history[0]["loss"]


def test_standardised_channels_have_mean_zero_and_deviation_one():
    made = model(standardise=True)
    task = AffinityTask(made, samples(), SETTINGS, workers=0)
    task.fit(images=4)
    batches = [made.levels_of(task._normalised(batch, CPU)) for batch in task.batches(range(2))]
    for index, levels in enumerate(zip(*batches, strict=True)):
        values = torch.cat([made.net._standard(index, level).transpose(0, 1).flatten(1) for level in levels], 1)
        live = values.std(1, correction=0) > 1e-2
        torch.testing.assert_close(values.mean(1), torch.zeros(len(values)), atol=1e-4, rtol=0)
        torch.testing.assert_close(values.std(1, correction=0)[live], torch.ones(int(live.sum())), atol=1e-3, rtol=0)


def test_a_network_that_standardises_and_one_that_finetunes_go_together():
    made = model(standardise=True, finetune=True)
    history = train_affinity(made, samples(), replace(SETTINGS, backbone_lr=0.001), device=CPU, workers=0)
    assert np.isfinite(history[-1]["loss"])


def test_a_stopped_run_continues_to_the_same_weights(tmp_path):
    whole = model()
    train_affinity(whole, samples(), SETTINGS, device=CPU, workers=0)
    cut = model()
    calls = iter([False, False, True])
    with pytest.raises(Stopped):
        train_affinity(
            cut,
            samples(),
            SETTINGS,
            device=CPU,
            workers=0,
            checkpoint=Checkpoint(tmp_path / "aff.h5", "run"),
            should_stop=lambda: next(calls),
        )
    again = model()
    train_affinity(again, samples(), SETTINGS, device=CPU, workers=0, checkpoint=Checkpoint(tmp_path / "aff.h5", "run"))
    assert all(torch.equal(value, weights(again)[key]) for key, value in weights(whole).items())


def test_unknown_pixels_and_padding_are_no_labels():
    _, valid, nodes = samples().load((0, 0, 0), replace(SETTINGS, crop=64), 4)
    assert nodes.shape == (16, 16)
    assert set(nodes.unique().tolist()) <= {-1, 0, 1}
    top, left, bottom, right = valid.tolist()
    outside = torch.ones(64, 64, dtype=torch.bool)
    outside[top:bottom, left:right] = False
    blocks = outside.reshape(16, 4, 16, 4).all(3).all(1)
    assert (nodes[blocks] == -1).all()


def test_posteriors_are_pooled_before_the_argmax():
    # The crop is the whole picture, so the labels must be those of the 4 x 4 means.
    made = Samples(records(1, posteriors=True), picture, 2)
    settings = replace(SETTINGS, crop=40)
    _, _, nodes = made.load((0, 0, 0), settings, 4)
    low = records(1, posteriors=True)[0].arrays["low"].astype(np.float64)
    means = low.reshape(2, 10, 4, 9, 4).mean((2, 4))
    expected = np.where(means.argmax(0) == 1, 1, 0)
    flipped = expected[:, ::-1]
    got = nodes.numpy()
    starts = range(got.shape[1] - 8)
    assert any(np.array_equal(got[:, k : k + 9], one) for one in (expected, flipped) for k in starts)


def test_layers_the_classifier_does_not_have_are_named():
    classifier = create(MODEL, ("a", "b"), weights="none")
    with pytest.raises(UsageError, match="no stage 'nowhere'"):
        configure(classifier, layers=["nowhere"])
    with pytest.raises(UsageError, match="--widths: 2 numbers for 1 layers"):
        configure(classifier, layers=[classifier.config.layer], widths=[4, 4])


def test_the_picture_itself_can_be_a_level():
    classifier = create(MODEL, ("a", "b"), weights="none", options={"dropout": 0.0})
    config = configure(classifier, layers=[classifier.config.layer, "image"], widths=[6, 4], stride=4)
    assert config.channels == (16, 3)
    made = AffinityModel(classifier, AffinityNet(config)).eval()
    images = torch.randn(2, 3, 32, 24)
    levels = made.levels_of(images)
    assert levels[1] is images
    # By hand: the picture is averaged over each node before its 1x1 convolution.
    nodes = torch.nn.functional.avg_pool2d(images, 4)
    reduced = [made.net.levels[0](levels[0]), made.net.levels[1](nodes)]
    expected = torch.nn.functional.elu(made.net.mix(torch.cat(reduced, 1)))
    torch.testing.assert_close(made(images), expected)
