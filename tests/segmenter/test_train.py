from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.segmenter.nets import CPU, SETTINGS, picture, records, samples, segmenter
from xseg.errors import Stopped, UsageError
from xseg.segmenter.posterior import Looks, posteriors
from xseg.segmenter.task import Learner
from xseg.segmenter.train import train_segmenter
from xseg.training.checkpoint import Checkpoint
from xseg.training.optim import make_optimizer


def weights(made):
    return {key: value.clone() for key, value in made.state_dict().items()}


def trained(settings, **options):
    made = segmenter()
    train_segmenter(made, samples(), settings, device=CPU, **options)
    return made


def test_it_learns_what_the_masks_say():
    made = segmenter()
    settings = replace(SETTINGS, epochs=40, optimizer="adamw", lr=0.005, head_lr_multiplier=1.0, jitter=0.0)
    history = train_segmenter(made, samples(), settings, device=CPU)
    assert history[-1]["loss"] < 0.3 * history[0]["loss"]
    assert not made.training
    (posterior,) = posteriors(made, [picture(records()[1])], Looks())
    known = records()[1].arrays["masks"] != 255
    assert (posterior.argmax(0).numpy() == records()[1].arrays["masks"])[known].mean() > 0.9


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_a_stopped_run_continues_to_the_same_weights(tmp_path, average):
    settings = replace(SETTINGS, average=average)
    whole = weights(trained(settings))
    calls = iter([False, False, True])
    with pytest.raises(Stopped):
        trained(settings, checkpoint=Checkpoint(tmp_path / "seg.h5", "run"), should_stop=lambda: next(calls))
    again = weights(trained(settings, checkpoint=Checkpoint(tmp_path / "seg.h5", "run")))
    assert all(torch.equal(value, again[key]) for key, value in whole.items())


def test_what_is_published_is_the_average_of_the_weights_after_each_step():
    settings, kept = replace(SETTINGS, average=0.9), []
    learner = segmenter()
    first = weights(learner)

    def keep(done, total, values):
        kept.append(weights(learner))

    train_segmenter(learner, samples(), settings, device=CPU, progress=keep)
    after, expected = kept[1:], {key: value.double() for key, value in first.items()}
    for number, state in enumerate(after, 1):
        share = min(0.9, (1 + number) / (10 + number))
        expected = {key: share * expected[key] + (1 - share) * state[key].double() for key in expected}
    for key, value in learner.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value.double(), expected[key], atol=1e-6, rtol=1e-5)
    assert any(not torch.allclose(value, after[-1][key]) for key, value in weights(learner).items())


def test_frozen_statistics_stay_in_the_backbone_and_move_in_the_head():
    made = segmenter()
    before = weights(made)
    train_segmenter(made, samples(), replace(SETTINGS, freeze_bn=True), device=CPU)
    moved = {key for key, value in made.state_dict().items() if not torch.equal(value, before[key])}
    assert not [key for key in moved if key.startswith("backbone.") and "running" in key]
    assert [key for key in moved if key.startswith("head.") and "running" in key]


def test_the_head_learns_at_its_own_rate_and_the_rate_falls():
    made = segmenter()
    history = train_segmenter(made, samples(), replace(SETTINGS, head_lr_multiplier=5.0), device=CPU)
    assert [entry["lr"] for entry in history] == pytest.approx(
        [np.mean([(1 - step / 4) ** 0.9 for step in steps]) for steps in ((0, 1), (2, 3))]
    )
    groups = make_optimizer(Learner(segmenter(), 0.9), ["net.head"], SETTINGS.optim()).param_groups
    assert {group["name"]: group["lr"] for group in groups} == pytest.approx(
        {f"{part} {kind}": rate for part, rate in (("backbone", 0.01), ("new", 0.1))
         for kind in ("weights", "vectors", "biases")}
    )  # fmt: skip
    learned = {id(parameter) for group in groups for parameter in group["params"]}
    assert len(learned) == len(list(segmenter().parameters()))  # the average does not learn


@pytest.mark.parametrize(
    ("model", "crop", "told"),
    [("timm:test_vit", 40, "sides divisible by 16"), ("timm:test_resnet", 16, "needs 32 pixels")],
)
def test_crops_that_the_backbone_does_not_take_are_refused(model, crop, told):
    with pytest.raises(UsageError, match=told):
        train_segmenter(segmenter(model), samples(), replace(SETTINGS, crop=crop), device=CPU)


@pytest.mark.parametrize(
    "wrong", [{"epochs": 0}, {"crop": 0}, {"scale_low": 2.0, "scale_high": 1.0}, {"average": 1.0}, {"warmup": -0.1}]
)
def test_numbers_that_mean_nothing_are_refused(wrong):
    with pytest.raises(UsageError, match=f"--{next(iter(wrong)).replace('_', '-')}|--scale-high"):
        replace(SETTINGS, **wrong)
