import pytest

from tests.classifier.nets import CLASSES
from xseg.classifier import create, feature_layers
from xseg.classifier.features import stage_modules
from xseg.errors import UsageError


def test_the_stages_of_a_dilated_network_are_listed_from_fine_to_coarse():
    classifier = create("tf_efficientnet_lite0", CLASSES, weights="none", output_stride=16)
    found = [(layer.path, layer.channels, layer.stride) for layer in feature_layers(classifier)]
    stages = zip([16, 24, 40, 80, 112, 192, 320], [2, 4, 8, 16, 16, 16, 16], strict=True)
    blocks = [(f"blocks.{k}", channels, stride) for k, (channels, stride) in enumerate(stages)]
    assert found == [("bn1", 32, 2), *blocks, ("bn2", 1280, 16)]


def test_a_plain_chain_of_layers_has_one_stage_per_resolution():
    layers = feature_layers(create("torchvision:alexnet", CLASSES, weights="none"))
    assert [(layer.channels, layer.stride) for layer in layers] == [(64, 4), (192, 8), (384, 16), (256, 16), (256, 32)]


def test_the_first_stages_hold_exactly_the_parameters_that_ran_first():
    classifier = create("tf_efficientnet_lite0", CLASSES, weights="none")
    made = stage_modules(classifier, 3)
    names = {name for name, _ in classifier.net.named_parameters() if any(name.startswith(f"{p}.") for p in made)}
    expected = ("conv_stem.", "bn1.", "blocks.0.", "blocks.1.")
    assert names == {name for name, _ in classifier.net.named_parameters() if name.startswith(expected)}
    assert stage_modules(classifier, 0) == []


def test_more_stages_than_the_network_has_are_a_usage_error():
    classifier = create("torchvision:alexnet", CLASSES, weights="none")
    with pytest.raises(UsageError, match="has 5 stages"):
        stage_modules(classifier, 5)
