import copy

import numpy as np
import pytest
import torch
from torch import nn

from tests.classifier.nets import tiny
from tests.heatmaps.nets import deep, picture, pooled
from xseg.classifier import Classifier, ClassifierConfig
from xseg.classifier.model import create
from xseg.heatmaps import explain_images, methods
from xseg.scores.randomise import RandomWeights, redrawn, stages_of
from xseg.seeding import key_seed


def trained(seed=0):
    """Two stages with batch norms whose weights and statistics are nothing like fresh ones."""
    net = tiny(3)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape, generator=generator).abs() if "var" in name else
                             torch.randn(tensor.shape, generator=generator))  # fmt: skip
    config = ClassifierConfig("tests:net", ("a", "b", "c"), layer="1", head="5", input_size=(32, 32))
    return Classifier(config, net).eval()


def state_of(classifier):
    return {name: tensor.clone() for name, tensor in classifier.net.state_dict().items()}


def changed(one, other):
    return {name for name in one if not torch.equal(one[name], other[name])}


def test_every_weight_is_in_exactly_one_stage_and_the_head_comes_first():
    classifier = trained()
    stages = stages_of(classifier)
    assert [stage.name for stage in stages] == ["5", "1", "0"]
    assert stages[1].modules == ("1.0", "1.1")
    modules = [path for stage in stages for path in stage.modules]
    assert len(modules) == len(set(modules))
    owned = {f"{path}.{name}" for path in modules for name, _ in classifier.net.get_submodule(path).named_parameters()}
    assert owned == {name for name, _ in classifier.net.named_parameters()}


def test_fully_connected_layers_after_the_features_go_with_the_head():
    assert [(stage.name, stage.modules) for stage in stages_of(deep())] == [
        ("fc", ("fc1", "fc")),
        ("features", ("features.2",)),
        ("features.1", ("features.0",)),
    ]


def test_the_blocks_of_a_transformer_are_stages():
    stages = stages_of(create("timm:test_vit", ("a", "b"), weights="none").eval())
    depth = len(stages) - 2
    assert depth > 1
    assert [stage.name for stage in stages] == [
        "head", *(f"blocks.{k}" for k in range(depth - 1, -1, -1)), "patch_embed.proj"
    ]  # fmt: skip
    assert set(stages[0].modules) == {"norm", "head"}
    assert set(stages[-1].modules) == {"", "patch_embed.proj"}  # the network's own: position embedding, class token


def test_weights_of_the_network_itself_and_of_its_containers_are_found():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.rand(3, 1, 1))
            self.body = pooled().net.features
            self.fc = nn.Linear(6, 4)

        def forward(self, images):
            return self.fc(self.body(images * self.scale).mean((2, 3)))

    config = ClassifierConfig("tests:net", tuple("abcd"), layer="body", head="fc", input_size=(32, 32))
    stages = stages_of(Classifier(config, Odd()).eval())
    assert stages[-1].modules[0] == ""  # the network's own weight counts with its first layers
    assert {path for stage in stages for path in stage.modules} == {"", "body.0", "body.2", "fc"}


@pytest.mark.parametrize("order", ["cascading", "independent"])
def test_each_stage_changes_what_it_says_and_the_classifier_is_never_touched(order):
    classifier = trained()
    before = state_of(classifier)
    weights = RandomWeights(classifier, order, seed=0)
    parts = [set(stage.modules) for stage in stages_of(classifier)]
    for number, twin in enumerate(weights):
        chosen = set.union(*parts[: number + 1]) if order == "cascading" else parts[number]
        expected = {name for name in before if name.rpartition(".")[0] in chosen and "num_batches" not in name}
        assert changed(before, state_of(twin)) == expected
        parameters = {name for name, _ in classifier.net.named_parameters()}
        assert weights.redrawn(number) == sum(before[name].numel() for name in expected & parameters)
        assert changed(before, state_of(classifier)) == set()
        assert not twin.training
    assert number == 2


@pytest.mark.parametrize("order", ["cascading", "independent"])
def test_fewer_stages_are_some_of_all_stages_the_first_and_the_last_among_them(order):
    classifier = trained()
    every = RandomWeights(classifier, order, 1)
    states = dict(zip(every.stages, map(state_of, every), strict=True))
    assert len(states) == 3
    for count in range(2, len(every.stages) + 1):
        some = RandomWeights(classifier, order, 1, count)
        assert len(some.stages) == len(set(some.stages)) == count
        assert (some.stages[0], some.stages[-1]) == (every.stages[0], every.stages[-1])
        for place, (name, twin) in enumerate(zip(some.stages, some, strict=True)):
            assert not changed(state_of(twin), states[name])
            assert some.redrawn(place) == every.redrawn(every.stages.index(name))


def test_both_orders_draw_the_same_and_another_seed_draws_otherwise():
    classifier = trained()
    cascading, independent, other = (
        [state_of(twin) for twin in RandomWeights(classifier, order, seed)]
        for order, seed in (("cascading", 1), ("independent", 1), ("cascading", 2))
    )
    again = [state_of(twin) for twin in RandomWeights(classifier, "cascading", 1)]
    for number, stage in enumerate(stages_of(classifier)):
        names = [name for name in cascading[-1] if name.rpartition(".")[0] in stage.modules]
        for name in names:
            assert torch.equal(cascading[-1][name], independent[number][name])
        assert any(not torch.equal(cascading[-1][name], other[-1][name]) for name in names)
    assert all(not changed(one, two) for one, two in zip(cascading, again, strict=True))


def test_modules_that_can_reset_are_reset_under_their_own_seed_and_statistics_too():
    classifier = trained()
    new = redrawn(classifier.net[0][0], "0.0", seed=7)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key_seed(7, "randomise", "0.0"))
        fresh = nn.Conv2d(3, 8, 3, 2, 1)
    assert torch.equal(new["weight"], fresh.weight)
    assert torch.equal(new["bias"], fresh.bias)
    norm = redrawn(classifier.net[0][1], "0.1", seed=7)
    assert norm["running_mean"].tolist() == norm["bias"].tolist() == [0] * 8
    assert norm["running_var"].tolist() == norm["weight"].tolist() == [1] * 8


def test_drawing_leaves_the_global_generator_alone():
    classifier = trained()
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    list(RandomWeights(classifier, "cascading", 0))
    assert torch.equal(torch.rand(4), expected)


def test_weights_that_cannot_be_reset_are_permuted_and_other_buffers_stay():
    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.gain = nn.Parameter(torch.arange(24.0).reshape(4, 6))
            self.register_buffer("index", torch.arange(9))

    class Half(nn.Linear):
        def __init__(self):
            super().__init__(3, 3)
            self.extra = nn.Parameter(torch.arange(40.0))  # reset_parameters does not know it

    module = Scale()
    new = redrawn(module, "a", seed=0)
    assert new["gain"].shape == (4, 6)
    assert sorted(new["gain"].flatten().tolist()) == list(range(24))
    assert not torch.equal(new["gain"], module.gain)
    assert torch.equal(new["index"], module.index)
    assert not torch.equal(new["gain"], redrawn(module, "b", seed=0)["gain"])
    half = Half()
    new = redrawn(half, "a", seed=0)
    assert sorted(new["extra"].tolist()) == list(range(40))
    assert not torch.equal(new["extra"], half.extra)
    assert not torch.equal(new["weight"], half.weight)


NAMES = [name for name in ("cam", "grad-cam", "input-x-gradient", "lrp", "agf", "rap") if name in methods.names()]


@pytest.mark.parametrize("name", NAMES)
def test_a_method_sees_the_new_weights_as_in_a_classifier_built_with_them(name):
    classifier, image = trained(), picture(40, 48)
    method = methods.create(name)

    def explain(one):
        return explain_images(one, method, [image], [(1, 3)], ["x"])[0].maps

    before = explain(classifier)
    for twin in RandomWeights(classifier, "cascading", 0):
        found = explain(twin)
        built = trained(seed=9)
        built.net.load_state_dict(copy.deepcopy(twin.net.state_dict()))
        np.testing.assert_allclose(found, explain(built), atol=1e-5 * max(1e-3, np.abs(found).max()))
        assert not np.allclose(found, before)
    np.testing.assert_array_equal(explain(classifier), before)


@pytest.mark.gpu
def test_on_a_gpu_the_same_weights_are_drawn():
    from xseg.device import resolve

    here = [state_of(twin) for twin in RandomWeights(trained(), "cascading", 0)]
    there = [state_of(twin) for twin in RandomWeights(trained().to(resolve("cuda")), "cascading", 0)]
    for one, other in zip(here, there, strict=True):
        assert all(torch.equal(tensor, other[name].cpu()) for name, tensor in one.items())
