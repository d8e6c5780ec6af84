import numpy as np
import pytest
import torch

from tests.heatmaps import oracle_maps as oracle
from tests.heatmaps.nets import ask, convolutional, deep, max_pooled, normalised, pooled, state_of
from xseg.errors import UsageError
from xseg.heatmaps import methods, require_served

PAIRS = [(0, 1), (2, 3), (0, 0), (1, 2), (0, 3)]


@pytest.mark.parametrize("make", [pooled, convolutional])
@pytest.mark.parametrize("shape", [(32, 40), (33, 47)])
def test_cam_is_the_head_at_each_place(make, shape):
    classifier, images = make(), normalised(3, *shape)
    maps = methods.create("cam", ["relu=false"])(classifier, ask(images, PAIRS))
    expected = [oracle.cam(state_of(classifier), images[i].double().numpy(), k) for i, k in PAIRS]
    np.testing.assert_allclose(maps.numpy(), expected, atol=1e-5)
    assert maps.dtype == torch.float32
    relu = methods.create("cam")(classifier, ask(images, PAIRS)).numpy()
    np.testing.assert_array_equal(relu, np.maximum(maps.numpy(), 0))
    root = methods.create("cam", ["sqrt=true"])(classifier, ask(images, PAIRS)).numpy()
    np.testing.assert_allclose(root, np.sqrt(relu), atol=1e-6)


def test_mean_of_cam_and_bias_is_the_logit():
    classifier, images = pooled(), normalised(2)
    maps = methods.create("cam", ["relu=false"])(classifier, ask(images, [(0, 2), (1, 1)]))
    logits = classifier(images)
    bias = classifier.net.fc.bias
    expected = torch.stack([logits[0, 2] - bias[2], logits[1, 1] - bias[1]])
    torch.testing.assert_close(maps.mean((1, 2)), expected.detach(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("make", [deep, max_pooled])
def test_cam_refuses_other_heads_and_names_grad_cam(make):
    classifier = make()
    with pytest.raises(UsageError, match=r"features \(Sequential\).*use grad-cam"):
        require_served(methods.create("cam"), classifier)
    with pytest.raises(UsageError, match="use grad-cam"):
        methods.create("cam")(classifier, ask(normalised(1), [(0, 0)]))
    require_served(methods.create("grad-cam"), classifier)


def test_cam_refuses_a_head_that_is_not_linear():
    classifier = pooled(head="features.1")
    assert "'features.1' (ReLU); use grad-cam" in methods.create("cam").serves(classifier)


def test_cam_serves_pooled_linear_heads():
    assert methods.create("cam").serves(pooled()) is None
    assert methods.create("cam").serves(convolutional()) is None


def test_an_unknown_layer_is_named_with_near_misses():
    with pytest.raises(UsageError, match=r"--layer features\.9"):
        methods.create("cam").serves(pooled(), "features.9")


def test_root_of_a_signed_map_is_refused():
    with pytest.raises(UsageError, match="sqrt"):
        methods.create("cam", ["sqrt=true", "relu=false"])


def test_signed_follows_the_parameters():
    assert not methods.create("cam").is_signed
    assert methods.create("cam", ["relu=false"]).is_signed
    assert methods.create("grad-cam", ["relu=false"]).is_signed
