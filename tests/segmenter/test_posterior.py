from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from tests.segmenter.nets import photographs, segmenter
from tests.segmenter.oracle_segmenter import bilinear
from xseg.errors import UsageError
from xseg.segmenter.posterior import Looks, posteriors


@pytest.fixture(scope="module")
def net():
    return segmenter("timm:test_resnet", head="lraspp").eval()


def probabilities(net, image):
    """One pass over an image (H,W,3) uint8, or over its (3,H,W) float colours."""
    colours = torch.from_numpy(image.transpose(2, 0, 1) / np.float32(255)) if image.dtype == np.uint8 else image
    with torch.no_grad():
        return net(net.normalise(colours[None])).softmax(1)[0].double().numpy()


def test_one_look_is_one_pass(net):
    (image,) = photographs((48, 40))
    (found,) = posteriors(net, [image], Looks())
    np.testing.assert_allclose(found, probabilities(net, image), atol=1e-6)


@pytest.mark.parametrize("looks", [Looks((0.5, 1.0, 1.5), flip=True), Looks(window=32, step=20, size=80)])
def test_every_pixels_probabilities_sum_to_one(net, looks):
    for found, image in zip(posteriors(net, photographs((70, 50)), looks), photographs((70, 50)), strict=True):
        assert found.shape == (3, *image.shape[:2])
        torch.testing.assert_close(found.sum(0), torch.ones(image.shape[:2]), atol=1e-5, rtol=0)
        assert (found >= 0).all()


def test_flips_average(net):
    (image,) = photographs((48, 40))
    (found,) = posteriors(net, [image], Looks(flip=True))
    mirrored = probabilities(net, np.ascontiguousarray(image[:, ::-1]))[:, :, ::-1]
    np.testing.assert_allclose(found, (probabilities(net, image) + mirrored) / 2, atol=1e-6)
    (of_mirror,) = posteriors(net, [np.ascontiguousarray(image[:, ::-1])], Looks(flip=True))
    torch.testing.assert_close(of_mirror.flip(2), found, atol=1e-5, rtol=0)


def test_scales_average_on_the_grid_of_the_image(net):
    (image,) = photographs((48, 64))
    (found,) = posteriors(net, [image], Looks((1.0, 2.0)))
    planes = [Image.fromarray(image[:, :, k].astype(np.float32), "F") for k in range(3)]
    large = np.stack([np.asarray(plane.resize((128, 96), Image.Resampling.BICUBIC)) for plane in planes])
    doubled = probabilities(net, torch.from_numpy(np.clip(large, 0, 255) / 255))
    expected = (probabilities(net, image) + bilinear(doubled, (48, 64))) / 2
    np.testing.assert_allclose(found, expected, atol=2e-3)  # Pillow's bicubic kernel is not quite torch's
    assert np.abs(found.numpy() - probabilities(net, image)).max() > 0.01


def test_images_do_not_depend_on_their_batch_nor_on_its_size(net):
    images = photographs((48, 40), (40, 48), (48, 40), (48, 40))
    looks = Looks((1.0, 0.75), flip=True, window=32)
    alone = [posteriors(net, [image], looks, batch_size=1)[0] for image in images]
    for size in (2, 8):
        for one, other in zip(posteriors(net, images, looks, batch_size=size), alone, strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


@pytest.mark.parametrize("window", [64, 200])
def test_a_window_over_the_whole_image_changes_nothing(net, window):
    images = photographs((64, 50))
    torch.testing.assert_close(posteriors(net, images, Looks(window=window)), posteriors(net, images, Looks()))


def test_windows_are_seen_one_by_one(net):
    (image,) = photographs((64, 32))
    (found,) = posteriors(net, [image], Looks(window=32, step=32))
    halves = [probabilities(net, np.ascontiguousarray(half)) for half in (image[:32], image[32:])]
    np.testing.assert_allclose(found, np.concatenate(halves, 1), atol=1e-6)


def test_a_small_image_is_enlarged_to_what_the_backbone_needs(net):
    (found,) = posteriors(net, photographs((7, 9)), Looks())
    assert found.shape == (3, 7, 9)


def test_a_transformer_sees_multiples_of_its_patch_and_answers_at_the_size_of_the_image():
    made = segmenter("timm:test_vit").eval()
    look = partial(posteriors, made, photographs((50, 70)))
    assert look(Looks())[0].shape == (3, 50, 70)
    assert look(Looks(window=32, step=16))[0].shape == (3, 50, 70)
    with pytest.raises(UsageError, match=r"in steps of 16; --window 48|--window 48"):
        look(Looks(window=40))


@pytest.mark.parametrize(
    ("looks", "told"),
    [({"step": 4}, "--step 4"), ({"window": 8, "step": 9}, "--step 9"), ({"window": 0}, "--window 0")],
)
def test_windows_that_leave_gaps_are_refused(looks, told):
    with pytest.raises(UsageError, match=told):
        Looks(**looks)


@pytest.mark.parametrize(("looks", "told"), [({"window": 16}, "--window 32"), ({"scales": (0.0,)}, "--scales")])
def test_looks_that_the_backbone_does_not_take_are_refused(net, looks, told):
    with pytest.raises(UsageError) as refused:
        posteriors(net, photographs((48, 40)), Looks(**looks))
    assert told in f"{refused.value.problem} {refused.value.hint}"


def test_the_network_is_left_in_its_mode(net):
    made = segmenter().train()
    posteriors(made, photographs((32, 32)), Looks())
    assert made.training
    assert all(parameter.requires_grad for parameter in made.parameters())


def test_a_batch_that_memory_does_not_hold_is_halved(net, monkeypatch):
    images, sizes = photographs((48, 40), (48, 40), (48, 40)), []
    expected = posteriors(net, images, Looks())
    forward = type(net).forward

    def small(self, given):
        sizes.append(len(given))
        if len(given) > 1:
            raise torch.OutOfMemoryError("out of memory")
        return forward(self, given)

    monkeypatch.setattr(type(net), "forward", small)
    for one, other in zip(posteriors(net, images, Looks()), expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
    assert sizes == [3, 1, 2, 1, 1]
