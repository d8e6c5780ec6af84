"""What is written down of a forward pass, what is refused because it cannot be, and that the network is left alone."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.heatmaps.nets import ask, convolutional, normalised, pooled, wrap
from tests.heatmaps.relevance.nets import relevance
from xseg.errors import UsageError
from xseg.heatmaps import methods
from xseg.heatmaps.relevance.tape import record

NAMES = ("lrp", "clrp", "sglrp", "rap", "agf")
INSTEAD = "use grad-cam, integrated-gradients or input-x-gradient"
WITHOUT_MAPS = "use integrated-gradients or input-x-gradient"  # where the last feature map does not reach the logits


class Middle(nn.Module):
    """Whatever `work(self, x)` does with 6 channels, and some layers for it to use."""

    def __init__(self, work):
        super().__init__()
        self.work = work
        self.extra = nn.Conv2d(6, 6, 3, padding=1)
        self.scale = nn.Parameter(torch.ones(6, 1, 1))

    def forward(self, x):
        return self.work(self, x)


def around(work, seed=0):
    """A convolution, `work` in a module called `middle`, a mean and a linear layer, in float64."""
    parts = [("features", nn.Conv2d(3, 6, 3, 2, 1)), ("middle", Middle(work)), ("pool", nn.AdaptiveAvgPool2d(1))]
    net = nn.Sequential()
    for name, module in [*parts, ("flat", nn.Flatten()), ("fc", nn.Linear(6, 4))]:
        net.add_module(name, module)
    return wrap(net, seed=seed).double()


def reason(work, name="lrp"):
    return methods.create(name).serves(around(work).float())


class Blind(nn.Module):
    """Classifies a constant."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 4)

    def forward(self, x):
        return self.fc(torch.ones(len(x), 6))


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient


def through_numpy(x):
    return torch.from_numpy(np.tanh(x.detach().numpy()))


def several(self, x):
    first, second = x.chunk(2, 1)
    a, b, c = torch.split(self.extra(x), [1, 2, 3], 1)
    return torch.cat([second, a, b], 1).relu() + torch.cat([first, c], dim=-3)


def in_place(self, x):
    x = self.extra(x)
    x.relu_()
    return x


def written(out_of_place):
    """The same network with calls that work in place, or with those that do not."""

    def work(self, x):
        if out_of_place:
            x = functional.relu(x + 0)
            x = x * self.scale * 1.5
            x = self.extra(x) + x
            return functional.silu(x) - 0.1
        x = functional.relu(x + 0, inplace=True)
        x = x.mul_(self.scale).mul_(1.5)
        kept = x
        x = self.extra(x)
        x += kept
        x = functional.silu(x, inplace=True)
        x -= 0.1
        return x

    return around(work)


def test_calls_in_place_leave_the_values_before_them():
    found, expected = written(False), written(True)
    images = normalised(2).double()
    with torch.no_grad():
        torch.testing.assert_close(found(images), expected(images))
    tapes = [record(classifier, images) for classifier in (found, expected)]
    assert all(torch.equal(tape.logits, expected(images)) for tape in tapes)
    for tape in tapes:
        convolution = next(step for step in tape.steps if step.path == "features")
        assert torch.equal(tape.values[convolution.target], found.net.features(images))
        assert torch.equal(tape.values[0], images)
    torch.testing.assert_close(relevance(found, images, 1), relevance(expected, images, 1))


@pytest.mark.parametrize("name", NAMES)
def test_a_module_may_run_in_place(name):
    def made(inplace):
        return around(lambda self, x: nn.Hardtanh(-1, 1, inplace)(self.extra(nn.ReLU(inplace)(x))))

    query = ask(normalised(2).double(), [(0, 1), (1, 3)])
    torch.testing.assert_close(methods.create(name)(made(True), query), methods.create(name)(made(False), query))
    assert methods.create(name).serves(made(True).float()) is None


def grown(self, x):
    """Goes on filling a list that has been concatenated, as DenseNet does."""
    features = [x]
    for _ in range(2):
        joined = torch.cat(features, 1)
        features.append(self.extra(joined[:, -6:]))
    return torch.cat(features, 1)[:, 6:12] + joined[:, :6]


def test_a_list_may_grow_after_its_concatenation():
    classifier, images = around(grown), normalised(2).double()
    steps = [step for step in record(classifier, images).steps if step.kind == "concatenation"]
    assert [len(step.args[0]) for step in steps] == [1, 2, 3]
    exact = ["composite=epsilon", "epsilon=0", "stabiliser=0", "bias=false"]
    total = relevance(classifier, images, 2, exact).sum((1, 2, 3))
    torch.testing.assert_close(total, classifier(images)[:, 2].detach())


def test_a_module_that_runs_twice_is_two_steps():
    def reused(self, x):
        return self.extra(self.extra(x).relu())

    classifier, images = around(reused), normalised(2).double()
    paths = [step.path for step in record(classifier, images).steps if step.kind == "convolution"]
    assert paths == ["features", "middle.extra", "middle.extra"]

    apart = around(lambda self, x: self.second(self.extra(x).relu()))
    apart.net.middle.second = nn.Conv2d(6, 6, 3, padding=1).double()
    apart.net.load_state_dict(
        classifier.net.state_dict()
        | {f"middle.second.{k}": v for k, v in classifier.net.middle.extra.state_dict().items()}
    )
    query = ask(images, [(0, 1), (1, 2)])
    for name in NAMES:
        torch.testing.assert_close(methods.create(name)(classifier, query), methods.create(name)(apart, query))


def test_several_results_of_one_call_are_told_apart():
    classifier, images = around(several), normalised(2).double()
    tape = record(classifier, images)
    assert [step.part for step in tape.steps if step.kind == "arrange"] == [0, 1, 0, 1, 2]
    exact = ["composite=epsilon", "epsilon=0", "stabiliser=0", "bias=false"]
    total = relevance(classifier, images, 2, exact).sum((1, 2, 3))
    torch.testing.assert_close(total, classifier(images)[:, 2].detach())
    assert all(reason(several, name) is None for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_an_operand_that_gives_only_its_shape_or_type_is_no_source(name):
    def shaped(self, x):
        added = self.scale.flatten().view(6, 1, 1).type_as(x).expand_as(x)
        return self.extra(x).reshape(len(x), -1).view_as(x) + added.to(x).reshape_as(x)

    found, expected = around(shaped), around(lambda self, x: self.extra(x) + self.scale)
    query = ask(normalised(2).double(), [(0, 1), (1, 3)])
    torch.testing.assert_close(methods.create(name)(found, query), methods.create(name)(expected, query))


def test_steps_that_do_not_lead_to_the_logits_are_dropped():
    def wasteful(self, x):
        self.extra(x).softmax(1)
        return x

    classifier = around(wasteful)
    assert "middle" not in {step.path.partition(".")[0] for step in record(classifier, normalised(1).double()).steps}
    assert reason(wasteful) is None


def test_a_custom_function_made_of_torch_is_seen_through():
    found, expected = (around(f) for f in (lambda _, x: x + Doubled.apply(x).relu(), lambda _, x: x + (2 * x).relu()))
    query = ask(normalised(2).double(), [(0, 1), (1, 3)])
    for name in NAMES:
        assert methods.create(name).serves(around(lambda _, x: x + Doubled.apply(x)).float()) is None
        torch.testing.assert_close(methods.create(name)(found, query), methods.create(name)(expected, query))


def attending(self, x):
    tokens = x.flatten(2)
    return functional.scaled_dot_product_attention(tokens, tokens, tokens).view_as(x)


REFUSED = {
    "softmax": lambda self, x: x.flatten(2).softmax(-1).view_as(x),
    "matmul": lambda self, x: (x.flatten(2) @ x.flatten(2).transpose(1, 2) @ x.flatten(2)).view_as(x),
    "scaled_dot_product_attention": attending,
    "instance_norm": lambda self, x: functional.instance_norm(x),
    "maximum": lambda self, x: torch.maximum(x, self.extra(x)),
    "sub": lambda self, x: x - self.extra(x),
    "__rsub__": lambda self, x: 1 - x,
    "div": lambda self, x: torch.ones_like(self.scale) / (x.relu() + 1),
    "add": lambda self, x: torch.add(x, self.extra(x), alpha=0.5),
    "mul": lambda self, x: x * self.extra(x),
    "pow": lambda self, x: x**2,
    "forward": lambda self, x: through_numpy(x),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("function", REFUSED)
def test_a_step_without_a_rule_is_refused_by_path_and_type(function, name):
    work = REFUSED[function]
    found = reason(work, name)
    assert found is not None
    head, _, tail = found.partition("(Middle: ")
    assert head == "no relevance rule for middle "
    last = "matmul" if function == "scaled_dot_product_attention" else function  # it is seen in steps
    assert tail == f"{last}); {WITHOUT_MAPS if function == 'forward' else INSTEAD}"


def test_the_refusal_is_a_sentence():
    assert reason(REFUSED["softmax"]) == f"no relevance rule for middle (Middle: softmax); {INSTEAD}"
    with pytest.raises(UsageError, match=r"no relevance rule for middle \(Middle: softmax\)") as refused:
        methods.create("lrp")(around(REFUSED["softmax"]), ask(normalised(1).double(), [(0, 1)]))
    assert refused.value.hint == INSTEAD


def overwriting(self, x):
    x = x + 0
    x[:, :2] = self.extra(x)[:, :2]
    return x


LEAVING_NO_STEP = {
    "a sum with what numpy made of the image": lambda self, x: x + through_numpy(x),
    "a number taken out of a tensor": lambda self, x: x / x.abs().max().item(),
    "a part that is overwritten": overwriting,
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("what", LEAVING_NO_STEP)
def test_what_leaves_no_step_is_refused(what, name):
    expected = f"the logits depend on the image in a way that leaves no step of torch to record; {INSTEAD}"
    assert reason(LEAVING_NO_STEP[what], name) == expected


@pytest.mark.parametrize("name", NAMES)
def test_a_network_that_relies_on_working_in_place_is_refused(name):
    found = reason(in_place, name)
    assert found == f"the network relies on working in place, which relevance cannot be recorded through; {INSTEAD}"


def test_a_network_that_does_not_look_at_the_image_is_refused():
    assert (
        reason(lambda self, x: torch.ones(1, 6, 4, 4))
        == f"no relevance rule for middle (Middle: forward); {WITHOUT_MAPS}"
    )
    found = methods.create("lrp").serves(wrap(Blind(), layer="fc"))
    assert found == f"no relevance rule for the network (Blind: forward); {WITHOUT_MAPS}"


def test_the_published_first_step_of_rap_needs_a_linear_layer():
    assert methods.create("rap", ["start=one"]).serves(pooled()) is None
    assert methods.create("rap").serves(convolutional()) is None
    refused = methods.create("rap", ["start=one"]).serves(convolutional())
    assert refused.startswith("start=one begins with the rule of a linear layer")
    assert "use start=logit" in refused


@pytest.mark.parametrize("name", NAMES)
def test_hooks_are_gone_after_an_error(name):
    def fail(self, x):
        raise ZeroDivisionError

    classifier = around(fail).train()
    with pytest.raises(ZeroDivisionError):
        methods.create(name)(classifier, ask(normalised(1).double(), [(0, 1)]))
    for module in classifier.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert module.training
    assert torch.ones(1).add_(1) == 2  # nothing records any more, nor replaces what works in place
