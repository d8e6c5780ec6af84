import json

import pytest
import torch
from torch import nn

from tests.classifier.nets import CLASSES, MODEL
from xseg.classifier import Classifier, ClassifierConfig, build, create, feature_layers
from xseg.device import torchvision_ready
from xseg.errors import BadInput, InputMissing, Unavailable, UsageError

# model, target layer, head, stride of the target layer
FAMILIES = [
    ("resnet10t", "layer4", "fc", 32),
    ("vgg11", "features", "head.fc", 32),
    ("densenet121", "features", "classifier", 32),
    ("efficientnet_lite0", "bn2", "classifier", 32),
    ("tf_efficientnet_lite0", "bn2", "classifier", 32),
    ("mobilenetv3_small_050", "blocks", "classifier", 32),
    ("convnext_atto", "stages", "head.fc", 32),
    ("regnetx_002", "s4", "head.fc", 32),
    ("torchvision:resnet18", "layer4", "fc", 32),
    ("torchvision:vgg11", "features", "classifier.6", 32),
    ("torchvision:densenet121", "features", "classifier", 32),
    ("torchvision:efficientnet_b0", "features", "classifier.1", 32),
    ("torchvision:mobilenet_v3_small", "features", "classifier.3", 32),
    ("torchvision:convnext_tiny", "features", "classifier.2", 32),
    ("torchvision:regnet_x_400mf", "trunk_output", "fc", 32),
    ("torchvision:alexnet", "features", "classifier.6", 32),
    ("torchvision:squeezenet1_1", "features", "classifier.1", 16),
]
SLOW = {"vgg11", "torchvision:vgg11"}  # initialising 130 million weights takes seconds


@pytest.mark.parametrize(
    ("model", "layer", "head", "stride"),
    [pytest.param(*row, marks=[pytest.mark.slow] * (row[0] in SLOW)) for row in FAMILIES],
)
def test_the_last_feature_map_and_the_head_are_found(model, layer, head, stride):
    classifier = create(model, CLASSES, weights="none").eval()
    assert (classifier.config.layer, classifier.config.head) == (layer, head)
    layers = feature_layers(classifier)
    assert layers[-1].path == layer
    assert layers[-1].stride == stride
    assert [a.stride for a in layers] == sorted(a.stride for a in layers)
    with torch.no_grad():
        assert classifier(torch.zeros(1, 3, 64, 64)).shape == (1, 3)
    assert not any(module._forward_hooks for module in classifier.modules())


@pytest.mark.parametrize(
    ("model", "stride"),
    [("resnet10t", 8), ("tf_efficientnet_lite0", 16), ("regnety_002", 8), ("torchvision:resnet50", 8)],
)
def test_an_output_stride_is_kept_through_a_rebuild(model, stride):
    created = create(model, CLASSES, weights="none", output_stride=stride).eval()
    config = ClassifierConfig.from_json(created.config.to_json())
    rebuilt = build(config).eval()
    rebuilt.net.load_state_dict(created.net.state_dict())
    assert feature_layers(rebuilt)[-1].stride == stride
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(rebuilt(images), created(images), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("model", "stride"),
    [("torchvision:resnet18", 16), ("torchvision:alexnet", 16), ("mobilenetv3_small_050", 16), ("resnet10t", 7)],
)
def test_an_unsupported_output_stride_is_a_usage_error(model, stride):
    with pytest.raises(UsageError, match="output-stride"):
        create(model, CLASSES, weights="none", output_stride=stride)


def test_mean_and_std_are_those_of_the_published_weights():
    assert create("tf_efficientnet_lite0", CLASSES, weights="none").config.mean == (0.5, 0.5, 0.5)
    config = create("torchvision:mobilenet_v3_small", CLASSES, weights="none").config
    assert config.mean == (0.485, 0.456, 0.406)
    assert config.std == (0.229, 0.224, 0.225)


def test_equal_seeds_give_equal_networks_and_leave_the_callers_random_numbers_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first, again, other = (create(MODEL, CLASSES, weights="none", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    for key, value in first.net.state_dict().items():
        assert torch.equal(value, again.net.state_dict()[key])
    assert not torch.equal(first.head.weight, other.head.weight)
    assert not torch.equal(first.net[0][0].weight, other.net[0][0].weight)


def test_a_head_without_bias_is_linear_in_the_pooled_features():
    classifier = create("resnet10t", CLASSES, weights="none", head_bias=False).eval()
    assert "fc.bias" not in classifier.net.state_dict()
    assert build(classifier.config).head.bias is None
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        pooled = classifier.net.forward_features(images).mean((2, 3))
        torch.testing.assert_close(classifier(images), pooled @ classifier.head.weight.T)


def test_a_kept_head_gives_the_logits_of_the_original_network(tmp_path):
    torchvision_ready()
    import timm

    original = timm.create_model("mobilenetv3_small_050", num_classes=7).eval()
    torch.save({"state_dict": {f"module.{k}": v for k, v in original.state_dict().items()}}, tmp_path / "w.pth")
    names = [f"class {k}" for k in range(7)]
    kept = create("mobilenetv3_small_050", names, weights=str(tmp_path / "w.pth"), keep_head=True).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(kept(images), original(images))
    assert kept.config.activation == "softmax"
    assert kept.config.classes == tuple(names)


def test_a_new_head_takes_everything_but_the_head_from_the_weights(tmp_path):
    source = create(MODEL, [str(k) for k in range(5)], weights="none", seed=9)
    torch.save(source.net.state_dict(), tmp_path / "w.pth")
    classifier = create(MODEL, CLASSES, weights=str(tmp_path / "w.pth"))
    assert torch.equal(classifier.net[0][0].weight, source.net[0][0].weight)
    assert classifier.head.weight.shape == (3, 16)
    assert torch.count_nonzero(classifier.head.bias) == 0


def test_imagenet_names_are_unique_and_free_of_commas(shared):
    weights = str(shared("weights/tf_efficientnet_lite0.safetensors"))
    classifier = create("tf_efficientnet_lite0", None, weights=weights, keep_head=True)
    names = classifier.config.classes
    assert len(set(names)) == 1000
    assert names[3] == "tiger shark"
    assert not any("," in name for name in names)


def test_a_kept_head_of_unknown_classes_asks_for_their_names(tmp_path):
    torch.save(create(MODEL, CLASSES, weights="none").net.state_dict(), tmp_path / "w.pth")
    with pytest.raises(UsageError, match="no known names"):
        create(MODEL, None, weights=str(tmp_path / "w.pth"), keep_head=True)
    with pytest.raises(BadInput, match="2 names"):
        create(MODEL, ["a", "b"], weights=str(tmp_path / "w.pth"), keep_head=True)


def test_a_kept_head_needs_weights_and_a_new_one_classes():
    with pytest.raises(UsageError, match="no head to keep"):
        create(MODEL, CLASSES, weights="none", keep_head=True)
    with pytest.raises(UsageError, match="class names"):
        create(MODEL, None, weights="none")
    with pytest.raises(UsageError, match="twice"):
        create(MODEL, ["a", "a"], weights="none")
    with pytest.raises(InputMissing):
        create(MODEL, CLASSES, weights="nowhere.pth")


@pytest.mark.parametrize(
    "model", ["resnet1", "torchvision:resnet1", "timm:hf-hub:someone/model", "a b", "torchvision:fcn_resnet50", ":x"]
)
def test_unknown_models_are_usage_errors(model):
    with pytest.raises(UsageError, match="--model"):
        create(model, CLASSES, weights="none")


def test_near_misses_of_a_model_are_named():
    with pytest.raises(UsageError) as caught:
        create("efficientnet_lite", CLASSES, weights="none")
    assert "efficientnet_lite0" in caught.value.hint


@pytest.mark.parametrize("model", ["tests.classifier.nets:absent", "no_such_package.nets:tiny"])
def test_a_factory_that_is_not_there_is_unavailable(model):
    with pytest.raises(Unavailable):
        create(model, CLASSES, weights="none")


def test_a_factory_must_return_a_module():
    with pytest.raises(UsageError, match="returned a str"):
        create("tests.classifier.nets:not_a_net", CLASSES, weights="none")


def test_a_config_from_a_file_cannot_choose_which_code_runs(monkeypatch):
    monkeypatch.delenv("XSEG_FACTORIES", raising=False)
    config = create(MODEL, CLASSES, weights="none", options={"dropout": 0.5}).config
    with pytest.raises(Unavailable) as caught:
        build(config)
    assert f"XSEG_FACTORIES={MODEL}" in caught.value.hint
    monkeypatch.setenv("XSEG_FACTORIES", MODEL)
    assert build(config).net[4].p == 0.5


def test_a_config_cannot_reach_a_constructors_download_arguments():
    values = json.loads(create("resnet10t", CLASSES, weights="none").config.to_json())
    values["options"] = {"pretrained": True}
    with pytest.raises(UsageError, match="pretrained is not allowed"):
        build(ClassifierConfig.from_json(json.dumps(values)))


def test_a_failed_download_is_unavailable_and_says_what_to_do(monkeypatch, tmp_path):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(Unavailable, match="cannot be fetched") as caught:
        create("mobilenetv3_small_050", ["a"], weights="hub")
    assert "download the file elsewhere" in caught.value.hint
    with pytest.raises(UsageError, match="no published weights"):
        create(MODEL, ["a"], weights="hub")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("classes", ["a", "a"]),
        ("classes", []),
        ("activation", "relu"),
        ("input_size", [0, 5]),
        ("std", [1, 1, 0]),
        ("mean", [1.0]),
        ("output_stride", True),
        ("layer", ""),
        ("options", {"x": [1]}),
        ("head_bias", 1),
    ],
)
def test_a_config_with_an_impossible_value_is_bad_input(field, value):
    values = json.loads(create(MODEL, CLASSES, weights="none").config.to_json())
    with pytest.raises(BadInput, match=field):
        ClassifierConfig.from_json(json.dumps({**values, field: value}))
    del values[field]
    with pytest.raises(BadInput, match="needed"):
        ClassifierConfig.from_json(json.dumps(values))


def test_a_config_whose_layer_does_not_exist_is_bad_input(monkeypatch):
    monkeypatch.setenv("XSEG_FACTORIES", MODEL)
    values = json.loads(create(MODEL, CLASSES, weights="none").config.to_json())
    with pytest.raises(BadInput, match=r"'7\.7'"):
        build(ClassifierConfig.from_json(json.dumps({**values, "layer": "7.7"})))


def test_images_are_normalised_alike_from_bytes_and_from_fractions():
    classifier = create("resnet10t", CLASSES, weights="none")
    images = torch.randint(0, 256, (2, 3, 5, 4), dtype=torch.uint8)
    expected = (images.double() / 255 - torch.tensor(classifier.config.mean).view(3, 1, 1)) / torch.tensor(
        classifier.config.std
    ).view(3, 1, 1)
    torch.testing.assert_close(classifier.normalise(images).double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(classifier.normalise(images.float() / 255).double(), expected, rtol=1e-5, atol=1e-5)


def test_probabilities_follow_the_activation():
    logits = torch.randn(4, 3)
    sigmoid = create(MODEL, CLASSES, weights="none")
    softmax = create(MODEL, CLASSES, weights="none", activation="softmax")
    torch.testing.assert_close(sigmoid.probabilities(logits), 1 / (1 + (-logits).exp()))
    torch.testing.assert_close(softmax.probabilities(logits).sum(1), torch.ones(4))


def test_logits_of_another_shape_are_a_programmers_error():
    config = create(MODEL, CLASSES, weights="none").config
    with pytest.raises(ValueError, match="needed"):
        Classifier(config, nn.Flatten())(torch.zeros(2, 3, 4, 4))
