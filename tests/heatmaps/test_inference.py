from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from tests.heatmaps import oracle_maps as oracle
from tests.heatmaps.nets import CLASSES, Forwards, deep, picture, pooled, smooth, state_of, wrap
from xseg.classifier import Classifier, ClassifierConfig
from xseg.device import torchvision_ready
from xseg.errors import Unavailable, UsageError
from xseg.heatmaps import explain_images, methods, predict_images
from xseg.heatmaps.views import SMALLEST_SIDE, smallest_side

MODEL_METHODS = ["cam", "grad-cam", "layer-cam", "input-x-gradient"]
SCALES = (1, 0.5, 1.5)


def explain(name, images, targets, classifier=None, settings=(), **kwargs):
    ids = [f"image{i}" for i in range(len(images))]
    return explain_images(classifier or pooled(), methods.create(name, settings), images, targets, ids, **kwargs)


def assert_close(found, expected, tolerance=1e-5):
    np.testing.assert_allclose(found, expected, atol=tolerance * max(1, np.abs(expected).max()), rtol=0)


def test_a_network_that_needs_larger_pictures_gets_them():
    # as AlexNet: a wide first layer and pools without padding leave nothing of 32 pixels
    parts = OrderedDict(
        features=nn.Sequential(
            nn.Conv2d(3, 4, 11, 4), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(4, 6, 3), nn.MaxPool2d(3, 2)
        ),
        pool=nn.AdaptiveAvgPool2d(1),
        flat=nn.Flatten(),
        fc=nn.Linear(6, 4),
    )
    classifier = wrap(nn.Sequential(parts), input_size=(96, 96))
    with pytest.raises(RuntimeError):
        classifier(torch.zeros(1, 3, 48, 48))
    assert smallest_side(classifier) == 64
    assert smallest_side(pooled()) == SMALLEST_SIDE
    for name in ("cam", "lrp", "integrated-gradients"):
        (found,) = explain(name, [picture(200, 20)], [(1,)], classifier, size=100)
        assert found.maps.shape == (1, 200, 20)
    assert predict_images(classifier, [picture(1, 30)]).shape == (1, 4)


def test_views_are_summed_as_in_an_independent_multi_scale_cam():
    classifier, image, target = pooled(), picture(65, 90), 3
    state, config = state_of(classifier), classifier.config
    expected = np.zeros((65, 90))
    for scale in (1, 0.5):
        shape = (round(65 * scale), round(90 * scale))
        seen = (oracle.bicubic(image, shape) - config.mean) / config.std
        for step in (1, -1):
            cam = np.maximum(oracle.cam(state, seen[:, ::step].transpose(2, 0, 1), target - 1), 0)
            expected += oracle.bilinear(cam, (65, 90))[:, ::step]
    (found,) = explain("cam", [image], [(target,)], classifier, scales=(1, 0.5), flip=True)
    assert_close(found.maps[0], expected)
    assert found.maps.dtype == np.float32
    assert found.class_id.tolist() == [3]
    assert found.class_id.dtype == np.int32


@pytest.mark.parametrize("name", MODEL_METHODS)
@pytest.mark.parametrize("shape", [(64, 64), (65, 97), (50, 33)])
def test_flipping_the_image_flips_the_map(name, shape):
    image = picture(*shape)
    mirrored = np.ascontiguousarray(image[:, ::-1])
    (plain,) = explain(name, [image], [(1, 2)], smooth(), scales=SCALES, flip=True)
    (mirror,) = explain(name, [mirrored], [(1, 2)], smooth(), scales=SCALES, flip=True)
    assert_close(mirror.maps[..., ::-1], plain.maps)
    assert plain.maps.shape == (2, *shape)


def test_without_flip_the_mirror_image_is_not_looked_at():
    image = picture(64, 80)
    (plain,) = explain("cam", [image], [(1,)])
    (mirror,) = explain("cam", [np.ascontiguousarray(image[:, ::-1])], [(1,)])
    assert np.abs(mirror.maps[..., ::-1] - plain.maps).max() > 1e-3 * np.abs(plain.maps).max()


@pytest.mark.parametrize("name", MODEL_METHODS)
def test_several_scales_are_the_sum_of_each(name):
    image = picture(70, 91)
    (all_scales,) = explain(name, [image], [(2, 4)], scales=SCALES)
    each = [explain(name, [image], [(2, 4)], scales=(scale,))[0].maps for scale in SCALES]
    assert_close(all_scales.maps, np.sum(each, 0))


@pytest.mark.parametrize("name", MODEL_METHODS)
def test_several_classes_equal_one_at_a_time(name):
    images = [picture(40, 52, seed) for seed in range(3)]
    together = explain(name, images, [(1, 3, 4), (2,), (4, 1)], flip=True)
    for image, found in zip(images, together, strict=True):
        for row, target in zip(found.maps, found.class_id, strict=True):
            (alone,) = explain(name, [image], [(int(target),)], flip=True)
            assert_close(row, alone.maps[0])


@pytest.mark.parametrize("name", [*MODEL_METHODS, "random", "centre-prior"])
def test_the_batch_size_does_not_matter(name):
    shapes = [(40, 52), (52, 40), (40, 52), (33, 33), (40, 52), (52, 40), (40, 52), (40, 52), (40, 52)]
    images = [picture(*shape, seed) for seed, shape in enumerate(shapes)]
    targets = [((1,), (2, 4), (), (3, 1, 2))[i % 4] for i in range(len(images))]
    one = explain(name, images, targets, smooth(), scales=(1, 1.5), flip=True, batch_size=1)
    eight = explain(name, images, targets, smooth(), scales=(1, 1.5), flip=True, batch_size=8)
    for image, asked, a, b in zip(images, targets, one, eight, strict=True):
        assert a.maps.shape == b.maps.shape == (len(asked), *image.shape[:2])
        assert tuple(a.class_id) == tuple(b.class_id) == asked
        if asked:
            assert_close(b.maps, a.maps, 1e-4)


def test_one_forward_pass_per_view_whatever_the_classes():
    classifier = pooled([f"class{k}" for k in range(20)])
    with Forwards(classifier) as forwards:
        explain("grad-cam", [picture()] * 2, [tuple(range(1, 21))] * 2, classifier, scales=SCALES, flip=True)
    assert forwards.count == 2 * len(SCALES)


def test_images_without_targets_are_not_run_and_get_no_maps():
    classifier = pooled()
    with Forwards(classifier) as forwards:
        empty = explain("cam", [picture(20, 30)], [()], classifier)[0]
        native = explain("cam", [picture(20, 30)], [()], classifier, map_size="model")[0]
    assert forwards.count == 0
    assert empty.maps.shape == (0, 20, 30)
    assert native.maps.shape == (0, 1, 1)
    assert empty.class_id.shape == (0,)


@pytest.mark.parametrize(("map_size", "expected"), [("image", (64, 96)), ("model", (16, 24)), ((21, 10), (21, 10))])
def test_map_sizes(map_size, expected):
    (found,) = explain("cam", [picture(64, 96)], [(1,)], scales=(1, 0.5), flip=True, map_size=map_size)
    assert found.maps.shape == (1, *expected)


def test_size_sets_the_long_side_before_the_scales():
    seen = []
    classifier = pooled()
    classifier.net.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape[-2:])))
    explain("cam", [picture(60, 120), picture(120, 61)], [(1,), (1,)], classifier, size=100, scales=(1, 2))
    explain("cam", [picture(10, 90)], [(1,)], classifier)
    assert seen == [(50, 100), (100, 200), (100, 51), (200, 102), (32, 90)]


def test_the_pixels_reach_the_network_unchanged_at_scale_1():
    seen, classifier, image = [], pooled(), picture(40, 48)
    classifier.net.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    explain("cam", [image], [(1,)], classifier, flip=True)
    expected = classifier.normalise(torch.from_numpy(image).permute(2, 0, 1)[None])
    torch.testing.assert_close(seen[0], expected)
    torch.testing.assert_close(seen[1], expected.flip(-1))


def test_networks_of_fixed_size_get_that_size_and_one_scale():
    torchvision_ready()
    from torchvision.models import VisionTransformer

    net = VisionTransformer(32, 8, 1, 2, 16, 32, num_classes=4)
    config = ClassifierConfig("tests:vit", CLASSES, input_size=(32, 32), layer="conv_proj", head="heads.head")
    classifier = Classifier(config, net)
    (found,) = explain("input-x-gradient", [picture(50, 70)], [(1,)], classifier, flip=True)
    assert found.maps.shape == (1, 50, 70)
    assert np.isfinite(found.maps).all()
    with pytest.raises(UsageError, match="32x32 only"):
        explain("input-x-gradient", [picture(50, 70)], [(1,)], classifier, scales=(1, 0.5))


@pytest.mark.parametrize(
    "wrong", [{"scales": ()}, {"scales": (0,)}, {"size": 0}, {"map_size": "big"}, {"map_size": (0, 4)}]
)
def test_views_that_make_no_sense_are_refused(wrong):
    with pytest.raises(UsageError, match="--" + next(iter(wrong)).replace("_", "-")):
        explain("cam", [picture()], [(1,)], **wrong)


def test_programmer_mistakes_are_value_errors():
    with pytest.raises(ValueError, match=r"needed class ids 1\.\.4"):
        explain("cam", [picture()], [(5,)])
    with pytest.raises(ValueError, match="equal numbers"):
        explain("cam", [picture()], [(1,), (2,)])
    with pytest.raises(ValueError, match="batch_size"):
        explain("cam", [picture()], [(1,)], batch_size=0)


@pytest.mark.parametrize("name", ["cam", "grad-cam"])
def test_running_out_of_memory_halves_the_batch(name):
    classifier, sizes = pooled(), []

    def limited(_, inputs):
        sizes.append(len(inputs[0]))
        if len(inputs[0]) > 2:
            raise torch.OutOfMemoryError("out of memory")

    images = [picture(40, 40, seed) for seed in range(7)]
    expected = explain(name, images, [(1, 2)] * 7, batch_size=1)
    hook = classifier.net.features[2].register_forward_pre_hook(limited)
    found = explain(name, images, [(1, 2)] * 7, classifier, batch_size=8)
    hook.remove()
    assert sizes == [7, 3, 1, 2, 4, 2, 2]
    for a, b in zip(found, expected, strict=True):
        assert_close(a.maps, b.maps, 1e-4)


def test_one_image_that_does_not_fit_is_reported():
    classifier = pooled()

    def never(*_):
        raise torch.OutOfMemoryError("out of memory")

    classifier.net.fc.register_forward_pre_hook(never)
    with pytest.raises(Unavailable, match="memory"):
        explain("cam", [picture()] * 3, [(1,)] * 3, classifier)


def test_predictions_are_probabilities_in_any_batch():
    for activation, make in (("sigmoid", pooled), ("softmax", lambda **_: deep())):
        classifier = make()
        config = ClassifierConfig("tests:net", CLASSES, activation, layer="features", head="fc", input_size=(32, 32))
        classifier = Classifier(config, classifier.net)
        images = [picture(40, 40 + 8 * (seed % 2), seed) for seed in range(5)]
        found = predict_images(classifier, images, batch_size=8)
        assert found.shape == (5, 4)
        assert found.dtype == np.float32
        for image, row in zip(images, found, strict=True):
            tensor = torch.from_numpy(image).permute(2, 0, 1)[None]
            with torch.no_grad():
                logits = classifier.eval()(classifier.normalise(tensor))[0].double().numpy()
            odds = np.exp(logits)
            expected = odds / (1 + odds) if activation == "sigmoid" else odds / odds.sum()
            np.testing.assert_allclose(row, expected, atol=1e-5)
    assert predict_images(classifier, []).shape == (0, 4)


def on_gpu(classifier):
    from xseg import device

    return classifier.to(device.resolve("cuda"))


@pytest.mark.gpu
@pytest.mark.parametrize("name", [*MODEL_METHODS, "random", "centre-prior"])
def test_cuda_equals_cpu(name):
    images = [picture(60, 84, seed) for seed in range(4)] + [picture(84, 61, 9)]
    targets = [(1, 4), (2,), (1, 2, 3), (), (3, 1)]
    cpu = explain(name, images, targets, smooth(), scales=SCALES, flip=True)
    cuda = explain(name, images, targets, on_gpu(smooth()), scales=SCALES, flip=True)
    for a, b in zip(cpu, cuda, strict=True):
        assert a.maps.shape == b.maps.shape
        if len(a.maps):
            assert_close(b.maps / np.abs(a.maps).max(), a.maps / np.abs(a.maps).max(), 1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("name", MODEL_METHODS)
def test_mixed_precision_stays_near(name):
    images = [picture(60, 84, seed) for seed in range(4)]
    full = explain(name, images, [(1, 4)] * 4, on_gpu(pooled()))
    half = explain(name, images, [(1, 4)] * 4, on_gpu(pooled()), amp=True)
    for a, b in zip(full, half, strict=True):
        assert b.maps.dtype == np.float32
        assert np.abs(a.maps - b.maps).mean() < 0.02 * np.abs(a.maps).max()


@pytest.mark.gpu
def test_a_gpu_out_of_memory_halves_the_batch():
    images = [picture(1024, 1024, seed) for seed in range(8)]
    expected = explain("grad-cam", images, [(1,)] * 8, batch_size=1)
    classifier = on_gpu(pooled())
    explain("grad-cam", images[:1], [(1,)], classifier)
    torch.cuda.empty_cache()
    total = torch.cuda.mem_get_info()[1]
    # Room for what is held already and 200 MiB more; the pixels of eight images alone take 220, twice while scaled.
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 200 * 2**20) / total)
    sizes = []
    hook = classifier.net.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    try:
        found = explain("grad-cam", images, [(1,)] * 8, classifier, batch_size=8)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        hook.remove()
    assert len(found) == 8
    assert 1 < len(sizes) <= 15
    for a, b in zip(found, expected, strict=True):
        assert_close(a.maps / np.abs(b.maps).max(), b.maps / np.abs(b.maps).max(), 1e-4)
