import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.classifier import train_until_killed
from tests.classifier.nets import CLASSES, MODEL, FakeDataset
from xseg.classifier import capture, create
from xseg.classifier.samples import TrainingBatches, whole_images
from xseg.classifier.settings import TrainSettings
from xseg.classifier.train import ClassifierTask, train_classifier
from xseg.classifier.validation import validate
from xseg.errors import BadInput, CannotCreate, Stopped, UsageError
from xseg.training.checkpoint import Checkpoint
from xseg.training.order import SampleOrder

CPU = torch.device("cpu")
SETTINGS = TrainSettings(
    epochs=3, batch_size=6, crop=32, resize_low=24, resize_high=48, lr=0.05, validation_size=32, jitter=0.2
)


def state(classifier):
    return {key: value.clone() for key, value in classifier.net.state_dict().items()}


def changed(classifier, before):
    return {key for key, value in classifier.net.state_dict().items() if not torch.equal(value, before[key])}


def trained(settings=SETTINGS, dataset=None, classifier=None, **options):
    classifier = classifier or create(MODEL, CLASSES, weights="none")
    dataset = FakeDataset(20, unknown=True) if dataset is None else dataset
    result = train_classifier(dataset, classifier, settings, **options)
    return classifier, result


def test_training_learns_the_tints_and_reports_average_precision():
    settings = replace(SETTINGS, epochs=12, jitter=0.0, lr=0.1, head_lr_multiplier=1.0)
    validation = FakeDataset(30, seed=9)
    untrained = create(MODEL, CLASSES, weights="none", options={"dropout": 0.0})
    before = validate(validation, untrained, device=CPU, long_side=32)
    classifier, result = trained(settings, FakeDataset(40), untrained, validation=validation)
    assert result.validation.mean > 0.9 > before.mean
    assert result.validation.average_precision.shape == (3,)
    assert result.history[-1]["loss"] < 0.7 * result.history[0]["loss"]
    assert len(result.history) == 12
    assert not classifier.training


@pytest.mark.parametrize(
    "settings",
    [
        SETTINGS,
        replace(SETTINGS, balance=1.0, optimizer="adamw", schedule="cosine"),
        replace(SETTINGS, interpolate=0.5),
    ],
)
def test_a_run_stopped_after_any_step_and_continued_has_the_same_weights(tmp_path, settings):
    whole, _ = trained(settings)
    checkpoint = Checkpoint(tmp_path / "out", "run")
    polls = iter([False] * 4 + [True])
    with pytest.raises(Stopped):
        trained(settings, checkpoint=checkpoint, should_stop=lambda: next(polls))
    resumed, result = trained(settings, checkpoint=Checkpoint(tmp_path / "out", "run"), workers=2)
    assert not changed(resumed, state(whole))
    assert result.steps == 10
    with pytest.raises(CannotCreate, match="another run"):
        trained(settings, checkpoint=Checkpoint(tmp_path / "out", "other"))


def test_interpolated_weights_lie_between_the_first_and_the_learned():
    first = state(create(MODEL, CLASSES, weights="none"))
    learned, _ = trained()
    between, _ = trained(replace(SETTINGS, interpolate=0.25))
    for name, value in state(between).items():
        if value.is_floating_point():
            assert torch.allclose(value, 0.75 * first[name] + 0.25 * learned.net.state_dict()[name], atol=1e-6)


def test_a_network_of_timm_resumes_exactly_and_ends_in_the_usual_memory_layout(tmp_path):
    def classifier():
        return create("mobilenetv3_small_050", CLASSES, weights="none")

    settings = replace(SETTINGS, epochs=1)
    whole, _ = trained(settings, classifier=classifier())
    polls = iter([False] * 2 + [True])
    with pytest.raises(Stopped):
        trained(settings, classifier=classifier(), checkpoint=Checkpoint(tmp_path / "out", "run"),
                should_stop=lambda: next(polls))  # fmt: skip
    resumed, _ = trained(settings, classifier=classifier(), checkpoint=Checkpoint(tmp_path / "out", "run"))
    assert not changed(resumed, state(whole))
    assert all(value.is_contiguous() for value in whole.net.state_dict().values())


@pytest.mark.slow
@pytest.mark.parametrize("kill_at", [1, 6])
def test_a_run_killed_with_kill_9_and_repeated_has_the_same_weights(tmp_path, kill_at):
    root = Path(__file__).resolve().parents[2]
    env = {**os.environ, "PYTHONPATH": str(root)}

    def command(pause):
        script = ["-m", "tests.classifier.train_until_killed", tmp_path / "out", tmp_path / "out.pt", pause]
        return [sys.executable, *map(str, script)]

    with subprocess.Popen(command(0.2), env=env, cwd=root, stdout=subprocess.PIPE, text=True) as process:
        while int(process.stdout.readline()) < kill_at:
            pass
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "out.pt").exists()
    ran = subprocess.run(command(0), env=env, cwd=root, check=True, stdout=subprocess.PIPE, text=True)
    assert int(ran.stdout.split()[0]) == (kill_at - 1) // 2 * 2  # killed before the save of its own step
    whole, _ = trained(train_until_killed.SETTINGS, FakeDataset(12))
    assert not changed(whole, torch.load(tmp_path / "out.pt", weights_only=True))


def test_workers_do_not_change_the_batches():
    dataset, order = FakeDataset(9), SampleOrder(9, 3, np.arange(1.0, 10.0))
    made = [
        list(
            TrainingBatches(dataset, order, SETTINGS.augmentation(), batch_size=4, seed=3, workers=workers)(range(2, 7))
        )
        for workers in (0, 3)
    ]
    for one, other in zip(*made, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in ("images", "valid", "labels"))
    assert made[0][0]["images"].dtype == torch.uint8
    assert made[0][0]["images"].shape == (4, 3, 32, 32)


def test_padding_is_zero_after_normalisation():
    classifier = create(MODEL, CLASSES, weights="none").eval()
    order = SampleOrder(9, 0)
    settings = replace(SETTINGS, resize_low=16, resize_high=20)
    batch = next(
        TrainingBatches(FakeDataset(9), order, settings.augmentation(), batch_size=4, seed=0, workers=0)(range(1))
    )
    seen = []
    with capture(classifier, ["0.0"]):
        hook = classifier.net[0][0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
        ClassifierTask(classifier, lambda steps: iter(()), "bce", 0.0).loss(batch, 0)
        hook.remove()
    for image, (top, left, bottom, right) in zip(seen[0], batch["valid"].tolist(), strict=True):
        inside = torch.zeros(32, 32, dtype=torch.bool)
        inside[top:bottom, left:right] = True
        assert torch.count_nonzero(image[:, ~inside]) == 0
        assert torch.count_nonzero(image[:, inside]) > 0.9 * image[:, inside].numel()


def test_frozen_stages_and_statistics_do_not_change():
    classifier = create(MODEL, CLASSES, weights="none")
    before = state(classifier)
    trained(replace(SETTINGS, frozen=1, freeze_bn=True), classifier=classifier)
    found = changed(classifier, before)
    assert found == {"1.0.weight", "1.0.bias", "1.1.weight", "1.1.bias", "5.weight", "5.bias"}
    assert all(parameter.requires_grad for parameter in classifier.parameters())
    before = state(classifier)
    trained(replace(SETTINGS, frozen=("0", "1")), classifier=classifier)
    assert changed(classifier, before) == {"5.weight", "5.bias"}


def test_a_softmax_head_trains_on_single_labels_only():
    classifier = create(MODEL, CLASSES, weights="none", activation="softmax")
    _, result = trained(dataset=FakeDataset(20, single=True), classifier=classifier)
    assert np.isfinite(result.history[-1]["loss"])
    with pytest.raises(BadInput, match="several classes"):
        trained(dataset=FakeDataset(20), classifier=classifier)
    with pytest.raises(UsageError, match="cross-entropy"):
        trained(replace(SETTINGS, loss="bce"), classifier=classifier)


def test_data_that_cannot_be_trained_on_is_bad_input():
    with pytest.raises(BadInput, match="empty"):
        trained(dataset=FakeDataset(0))
    unlabelled = FakeDataset(5)
    unlabelled.labels[:] = 255
    with pytest.raises(BadInput, match="no image has a known label"):
        trained(dataset=unlabelled)
    renamed = FakeDataset(5)
    renamed.classes = ("red", "blue", "green")
    with pytest.raises(BadInput, match="class 2 = 'blue', the classifier 'green'"):
        trained(dataset=renamed)
    with pytest.raises(BadInput, match="class 2"):
        trained(validation=renamed)


@pytest.mark.parametrize(
    "change",
    [{"epochs": 0}, {"lr": -1.0}, {"resize_high": 8}, {"warmup": 1.0}, {"label_smoothing": -0.1}, {"interpolate": 0}],
)
def test_impossible_settings_are_usage_errors(change):
    with pytest.raises(UsageError):
        replace(SETTINGS, **change)


def test_a_learning_rate_that_diverges_is_told_with_its_step():
    settings = replace(SETTINGS, lr=1e12, epochs=30)
    with pytest.raises(UsageError, match=r"diverged at step \d+"):
        trained(settings)


def test_validation_does_not_depend_on_how_images_are_batched():
    classifier = create(MODEL, CLASSES, weights="none")
    dataset = FakeDataset(17)
    one, many = (
        validate(dataset, classifier, device=CPU, long_side=28, batch_size=size, workers=size % 2) for size in (1, 8)
    )
    np.testing.assert_array_equal(one.average_precision, many.average_precision)
    seen = [index for indices, _ in whole_images(dataset, None, batch_size=4, workers=0) for index in indices]
    assert sorted(seen) == list(range(17))


def test_validation_can_be_stopped():
    with pytest.raises(Stopped):
        validate(
            FakeDataset(4), create(MODEL, CLASSES, weights="none"), device=CPU, long_side=28, should_stop=lambda: True
        )


def test_the_psa_preset_is_what_was_published():
    psa = TrainSettings.psa()
    assert (psa.lr, psa.epochs, psa.batch_size, psa.crop, psa.resize_low, psa.resize_high) == (
        0.1,
        15,
        16,
        448,
        256,
        512,
    )
    assert psa.momentum == psa.weight_decay == 5e-4
    assert psa.augmentation().jitter == pytest.approx((0.3, 0.3, 0.3, 0.1))
    assert psa.factor(10)(5) == pytest.approx(0.5**0.9)


@pytest.mark.gpu
def test_training_on_a_gpu_follows_the_cpu():
    settings = replace(SETTINGS, jitter=0.0)
    runs = [
        trained(settings, classifier=create(MODEL, CLASSES, weights="none", options={"dropout": 0.0}), device=device)
        for device in (CPU, torch.device("cuda"))
    ]
    for key, value in runs[0][0].net.state_dict().items():
        torch.testing.assert_close(runs[1][0].net.state_dict()[key].cpu(), value, rtol=1e-3, atol=1e-4)
