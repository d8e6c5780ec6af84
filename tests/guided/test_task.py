"""The loss of a guided training: what each term asks for, what the parts of a batch add up to, and its gradient."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from tests.guided import oracle_losses as oracle
from tests.guided.nets import CLASSES, residual, some_batch
from xseg.classifier.losses import label_loss
from xseg.guided.losses import LOCALISATION, LOSSES
from xseg.guided.settings import GuidedSettings
from xseg.guided.task import GuidedTask
from xseg.guided.terms import chosen_classes, terms_of
from xseg.heatmaps.registry import Query, methods
from xseg.heatmaps.views import resize_maps

CAM = ("grad-cam",)
LRP = ("lrp", "composite=epsilon", "epsilon=0.05")


def task_of(classifier, heatmap=CAM, regions=False, others=(), at_once=1, **options):
    options = {"weight": 0.7, "region_weight": 0.3, "classification_weight": 1.3} | options
    settings = GuidedSettings(heatmap=heatmap, **options)
    method = methods.create(heatmap[0], heatmap[1:])
    against = [(other, method) for other in others]
    terms = terms_of(settings, len(CLASSES), regions, against)
    return GuidedTask(
        classifier, method, lambda steps: iter(()), terms,
        classification_weight=settings.classification_weight, at_once=at_once,
    )  # fmt: skip


def all_maps(classifier, batch, heatmap=CAM):
    """(N, C + 1, h, w) of every class, the background first, by `explain`'s way."""
    images = classifier.normalise(batch["images"])
    count = len(images)
    image, target = torch.arange(count).repeat_interleave(4), torch.arange(4).repeat(count)
    query = Query(images, image, target, tuple(map(str, range(count))))
    maps = methods.create(heatmap[0], heatmap[1:])(classifier.full, query)
    return resize_maps(maps, (16, 16)).unflatten(0, (count, 4)).double().numpy()


def expected_guidance(name, classifier, batch, others=()):
    """From the definitions, with the maps that `explain` would give."""
    maps, mask = all_maps(classifier, batch), batch["mask"].numpy()
    if name in ("cross-entropy", "dice"):
        return getattr(oracle, name.replace("-", "_"))(maps, mask)
    values = []
    for n, row in enumerate(batch["labels"].tolist()):
        present = [k for k, label in enumerate(row, 1) if label == 1]
        if not present or (name != "diversity" and not batch["masked"][n]):
            continue
        k = present[int(batch["draw"][n]) % len(present)]
        if name == "diversity":
            values.append(oracle.similarity(maps[n, k], [all_maps(o, batch)[n, k] for o in others]))
        else:
            values.append(getattr(oracle, name)(maps[n, k], mask[n] == k, mask[n] >= 0))
    return sum(values) / len(values)


@pytest.mark.parametrize("name", LOSSES)
def test_the_loss_is_the_labels_and_what_the_definitions_say_of_the_maps(name):
    classifier, batch = residual(), some_batch()
    others = [residual(seed=7), residual(seed=8)] if name == "diversity" else []
    loss, values = task_of(classifier, loss=name, others=others).loss(batch, 0)
    labels = float(label_loss(classifier(classifier.normalise(batch["images"])), batch["labels"]).detach())
    guidance = expected_guidance(name, classifier, batch, others)
    assert float(values[name]) == pytest.approx(guidance, rel=1e-4)
    assert float(values["labels"]) == pytest.approx(labels, rel=1e-6)
    assert float(loss.detach()) == pytest.approx(0.7 * guidance + 1.3 * labels, rel=1e-4)


def test_regions_are_penalised_whatever_the_other_loss():
    classifier, batch = residual(), some_batch(regions=(2, 3))
    batch["labels"][2] = torch.tensor([1, 0, 1])
    _, values = task_of(classifier, regions=True).loss(batch, 0)
    maps, found = all_maps(classifier, batch), []
    for n in (2, 3):
        present = [k for k, label in enumerate(batch["labels"][n].tolist(), 1) if label == 1]
        if present:
            k = present[int(batch["draw"][n]) % len(present)]
            region = batch["region"][n].numpy()
            found.append(oracle.rrr(maps[n, k], ~region, np.ones_like(region)))
    assert float(values["ignored"]) == pytest.approx(sum(found) / len(found), rel=1e-4)
    assert float(values["ignored"]) > 0


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("sizes", [(1, 3), (2, 2), (2, 1, 1)])
def test_parts_of_a_batch_add_up_to_the_whole_in_loss_and_gradient(name, sizes):
    """Whichever parts the masks, the regions and the labels fall into: what several processes rely on."""
    classifier, batch = residual().double(), some_batch(masked=(0, 2), regions=(1, 2))
    batch["labels"][3] = 255
    task = task_of(
        classifier, LRP, regions=True, loss=name, others=[residual(seed=7).double()] if name == "diversity" else []
    )
    parameters = list(classifier.parameters())
    whole, _ = task.loss(in_double(batch), 0)
    expected = torch.autograd.grad(whole, parameters)
    pieces = [
        dict(zip(batch, part, strict=True)) for part in zip(*(v.split(sizes) for v in batch.values()), strict=True)
    ]
    counted = [task.terms(piece) for piece in pieces]
    total = {key: sum(one[key] for one in counted) for key in counted[0]}
    parts = [task.loss(in_double(piece), 0, total)[0] for piece in pieces]
    assert float(sum(parts).detach()) == pytest.approx(float(whole.detach()), rel=1e-9)
    for one, other in zip(torch.autograd.grad(sum(parts), parameters), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


def in_double(batch):
    return {**batch, "images": batch["images"].double() / 255}


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_without_masks_and_labels_has_a_loss_and_asks_for_no_map(name):
    classifier, batch = residual(), some_batch(masked=())
    batch["labels"][:] = 0
    task = task_of(classifier, loss=name, regions=True, others=[residual(seed=7)] if name == "diversity" else [])
    loss, values = task.loss(batch, 0)
    assert float(values[name]) == float(values["ignored"]) == 0
    loss.backward()
    expected = torch.autograd.grad(
        1.3 * label_loss(classifier(classifier.normalise(batch["images"])), batch["labels"]), classifier.net.fc.weight
    )[0]
    torch.testing.assert_close(classifier.net.fc.weight.grad, expected)


@pytest.mark.parametrize("heatmap", [CAM, LRP, ("agf",), ("input-x-gradient",)], ids=str)
def test_the_whole_loss_has_the_gradient_that_finite_differences_give(heatmap):
    """The task in float64, in the loop's own train mode but for batch statistics: all weights in four directions."""
    classifier = residual(activation=nn.Softplus).double()
    batch = in_double(some_batch(regions=(3,)))
    batch["labels"][3] = torch.tensor([1, 0, 0])
    task = task_of(classifier, heatmap, regions=True, normalise="rms", temperature=0.5)
    parameters = list(classifier.net.parameters())
    found = torch.autograd.grad(task.loss(batch, 0)[0], parameters)
    generator = torch.Generator().manual_seed(1)
    for _ in range(4):
        directions = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in parameters]
        values = []
        for step in (1e-6, -2e-6, 1e-6):
            with torch.no_grad():
                for parameter, direction in zip(parameters, directions, strict=True):
                    parameter.add_(step * direction)
            values.append(float(task.loss(batch, 0)[0].detach()))
        slope = sum(float((g * d).sum()) for g, d in zip(found, directions, strict=True))
        assert slope == pytest.approx((values[0] - values[1]) / 2e-6, rel=2e-4, abs=1e-5)


@pytest.mark.parametrize("at_once", [0, 1, 2])
def test_classes_at_once_change_nothing_but_rounding(at_once):
    classifier, batch = residual().double(), in_double(some_batch())
    parameters = list(classifier.parameters())
    expected = torch.autograd.grad(task_of(classifier, LRP, at_once=0).loss(batch, 0)[0], parameters)
    found = torch.autograd.grad(task_of(classifier, LRP, at_once=at_once).loss(batch, 0)[0], parameters)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-10)


def test_training_mode_and_statistics_are_the_classifications_alone():
    classifier, batch = residual(), some_batch()
    plain = copy.deepcopy(classifier)
    classifier.train(), plain.train()
    task_of(classifier, LRP).loss(batch, 0)[0].backward()
    with torch.no_grad():
        plain(plain.normalise(batch["images"]))
    assert all(module.training for module in classifier.net.modules())
    assert torch.equal(classifier.net.norm.running_mean, plain.net.norm.running_mean)
    assert int(classifier.net.norm.num_batches_tracked) == 1


@pytest.mark.parametrize("at_once", [0, 1])
def test_heatmaps_stay_in_single_precision_where_the_logits_do_not(at_once):
    classifier, batch = residual(), some_batch()
    task = task_of(classifier, LRP, at_once=at_once)
    whole, exact = task.loss(batch, 0)
    with torch.autocast("cpu", torch.bfloat16):
        mixed, values = task.loss(batch, 0)
    assert float(values["cross-entropy"]) == float(exact["cross-entropy"])
    assert float(values["labels"]) != float(exact["labels"])
    weight = classifier.net.stem.weight
    for loss in (whole, mixed):
        assert torch.autograd.grad(loss, weight)[0].dtype == torch.float32


def test_padding_is_zero_for_maps_and_logits():
    classifier, batch = residual(), some_batch()
    batch["valid"][:] = torch.tensor([2, 3, 12, 14])
    spoiled = {**batch, "images": batch["images"].clone()}
    spoiled["images"][:, :, :2] = 77
    task = task_of(classifier)
    assert float(task.loss(batch, 0)[0].detach()) == float(task.loss(spoiled, 0)[0].detach())


def test_one_class_is_drawn_evenly_and_by_the_number_alone():
    present = torch.tensor([[True, False, True], [False, False, False], [False, True, False]])
    draws = torch.stack([chosen_classes(present, torch.tensor([n, n, n]), True).class_id for n in range(60)])
    assert {tuple(row) for row in draws.tolist()} == {(1, 2), (3, 2)}
    assert (draws[:, 0] == 1).sum() == 30
    every = chosen_classes(present, torch.tensor([5, 5, 5]), False)
    assert every.image.tolist() == [0, 0, 2]
    assert every.class_id.tolist() == [1, 3, 2]


def test_every_class_averages_over_all_present_ones():
    classifier, batch = residual(), some_batch()
    _, values = task_of(classifier, loss="energy", one_class=False).loss(batch, 0)
    maps, mask = all_maps(classifier, batch), batch["mask"].numpy()
    found = [
        oracle.energy(maps[n, k], mask[n] == k, mask[n] >= 0)
        for n in range(2) for k in range(1, 4) if batch["labels"][n, k - 1] == 1
    ]  # fmt: skip
    assert len(found) > 2
    assert float(values["energy"]) == pytest.approx(sum(found) / len(found), rel=1e-4)
    assert set(LOCALISATION) < set(LOSSES)
