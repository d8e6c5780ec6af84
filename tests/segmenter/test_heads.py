"""Heads against torchvision's where it has them, against plain convolutions in float64 where it has not."""

import pytest
import torch
from torch.nn import functional

from xseg.device import torchvision_ready
from xseg.segmenter.heads import ASPP, LRASPP, DeepLabV3, DeepLabV3Plus, conv_norm

torchvision_ready()


def drawn(module):
    """The module with every parameter and statistic drawn, in evaluation mode, in float64."""
    torch.manual_seed(1)
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand_like(tensor) + 0.5 if "var" in name else torch.randn_like(tensor) * 0.2)
    return module.double().eval()


def take(target, source):
    """Copy convolutions and norms in order of their appearance."""
    ours = [tensor for name, tensor in target.state_dict().items() if "num_batches" not in name]
    theirs = [tensor for name, tensor in source.state_dict().items() if "num_batches" not in name]
    for one, other in zip(ours, theirs, strict=True):
        one.copy_(other)


@pytest.fixture
def features():
    return torch.randn(2, 8, 9, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def torchvision_aspp(ours, rates):
    """torchvision's ASPP with our weights; its norm behind the image's mean is made to add our bias alone."""
    from torchvision.models.segmentation.deeplabv3 import ASPP as Theirs

    theirs = Theirs(8, list(rates), 16).double().eval()
    for branch, other in zip(ours.branches, [theirs.convs[k] for k in range(len(rates) + 1)], strict=True):
        take(other, branch)
    pool, norm = theirs.convs[-1][1], theirs.convs[-1][2]
    pool.weight.data.copy_(ours.mean.weight)
    norm.running_var.fill_(1 - norm.eps)
    norm.bias.data.copy_(ours.mean.bias)
    take(theirs.project[:2], ours.mix[:2])
    return theirs


@pytest.mark.parametrize("rates", [(1, 2, 3), (2, 5)])
def test_the_aspp_is_torchvisions(features, rates):
    ours = drawn(ASPP(8, 16, rates, "batch", 0.1))
    torch.testing.assert_close(ours(features), torchvision_aspp(ours, rates)(features))


def test_deeplabv3_is_torchvisions(features):
    from torchvision.models.segmentation.deeplabv3 import DeepLabHead

    ours = drawn(DeepLabV3(ASPP(8, 256, (1, 2), "batch", 0.1), 256, 3, "batch"))
    theirs = DeepLabHead(8, 3, [1, 2]).double().eval()
    narrow = drawn(ASPP(8, 16, (1, 2), "batch", 0.1))
    theirs[0] = torchvision_aspp(narrow, (1, 2))
    ours.aspp = narrow
    theirs[1], ours.refine[0] = (torch.nn.Conv2d(16, 256, 3, padding=1, bias=False).double() for _ in range(2))
    take(theirs[1], ours.refine[0])
    take(theirs[2], ours.refine[1])
    take(theirs[4], ours.classify)
    torch.testing.assert_close(ours(features), theirs(features))


def test_lraspp_is_torchvisions(features):
    from torchvision.models.segmentation.lraspp import LRASPPHead

    fine = torch.randn(2, 5, 18, 13, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    ours = drawn(LRASPP(8, 5, 3, 16, "batch"))
    theirs = LRASPPHead(5, 8, 3, 16).double().eval()
    take(theirs.cbr, ours.reduce)
    theirs.scale[1].weight.data.copy_(ours.gate.weight)
    take(theirs.low_classifier, ours.classify_fine)
    take(theirs.high_classifier, ours.classify)
    torch.testing.assert_close(ours(features, fine), theirs({"low": fine, "high": features}))


def test_lraspp_without_finer_features_keeps_their_grid(features):
    ours = drawn(LRASPP(8, 0, 3, 16, "batch"))
    gate = torch.sigmoid(torch.einsum("kc,nc->nk", ours.gate.weight[:, :, 0, 0], features.mean((2, 3))))
    expected = ours.classify(ours.reduce(features) * gate[:, :, None, None])
    torch.testing.assert_close(ours(features), expected)


def test_deeplabv3_plus_is_the_paper_written_out(features):
    fine = torch.randn(2, 5, 18, 14, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    ours = drawn(DeepLabV3Plus(ASPP(8, 16, (1, 2), "batch", 0.1), 5, 16, 3, "batch"))

    def block(values, layers, padding):
        values = functional.conv2d(values, layers[0].weight, padding=padding)
        norm = layers[1]
        shape = (1, -1, 1, 1)
        values = (values - norm.running_mean.view(shape)) / (norm.running_var.view(shape) + norm.eps).sqrt()
        return (values * norm.weight.view(shape) + norm.bias.view(shape)).clamp(min=0)

    coarse = functional.interpolate(ours.aspp(features), (18, 14), mode="bilinear", align_corners=False)
    joined = torch.cat([coarse, block(fine, ours.reduce, 0)], 1)
    for layers in ours.refine:
        joined = block(joined, layers, 1)
    expected = functional.conv2d(joined, ours.classify.weight, ours.classify.bias)
    torch.testing.assert_close(ours(features, fine), expected)


def test_with_group_norm_an_image_does_not_depend_on_those_beside_it(features):
    head = DeepLabV3(ASPP(8, 48, (1, 2), "group", 0.0), 48, 3, "group").double().train()
    torch.testing.assert_close(head(features)[:1], head(features[:1]))


def test_a_batch_of_one_can_be_learned_from(features):
    for norm in ("batch", "group"):
        head = DeepLabV3(ASPP(8, 16, (1,), norm, 0.0), 16, 3, norm).double().train()
        assert torch.isfinite(head(features[:1])).all()


def test_dilated_convolutions_keep_the_grid(features):
    for kernel, dilation in ((1, 1), (3, 1), (3, 6)):
        assert conv_norm(8, 4, kernel, "batch", dilation=dilation).double()(features).shape == (2, 4, 9, 7)
