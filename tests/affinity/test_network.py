import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.affinity.oracle_pairs import enlarged
from xseg.affinity.network import PRESETS, AffinityConfig, AffinityNet, grid_size, pad_to_multiple, preset
from xseg.errors import BadInput


def config(**changes):
    values = {"layers": ("a", "b"), "channels": (4, 6), "widths": (3, 6), "groups": (0, 2), "features": 7, "stride": 8}
    return AffinityConfig(**(values | changes))


def seeded(settings_):
    torch.manual_seed(0)
    return AffinityNet(settings_).double()


@pytest.mark.parametrize(
    ("fixture", "trunk"),
    [("psa_rw_20x24", ("conv4", "conv5", "conv6")), ("psa_rw_9x11", ("conv4", "conv5", "conv5fc"))],
)
def test_published_heads_give_the_published_features(shared, fixture, trunk):
    with np.load(shared(f"reference/fixtures/{fixture}.npz")) as file:
        weights = {name: torch.from_numpy(file[name]).double() for name in file.files if name.startswith("sd/")}
        levels = [torch.from_numpy(file[f"trunk/{name}"]).double()[None] for name in trunk]
        expected, size = file["features"], tuple(int(pixels) for pixels in file["image_size"])
    heads = [weights[f"sd/f8_{n}.weight"] for n in (3, 4, 5)]
    normed = "sd/gn8_3.weight" in weights
    net = AffinityNet(
        AffinityConfig(
            layers=trunk,
            channels=tuple(head.shape[1] for head in heads),
            widths=tuple(head.shape[0] for head in heads),
            groups=(2, 4, 8) if normed else (0, 0, 0),
            features=len(expected),
        )
    ).double()
    state = {"mix.weight": weights["sd/f9.weight"]}
    for level, n in enumerate((3, 4, 5)):
        state[f"levels.{level}.0.weight"] = weights[f"sd/f8_{n}.weight"]
        if normed:
            state |= {f"levels.{level}.1.{name}": weights[f"sd/gn8_{n}.{name}"] for name in ("weight", "bias")}
    net.load_state_dict(state)
    with torch.no_grad():
        np.testing.assert_allclose(net(levels, size)[0], expected, rtol=1e-10, atol=1e-12)


def elu(values):
    return np.where(values > 0, values, np.expm1(values))


def group_norm(values, groups):
    parts = values.reshape(groups, -1)
    parts = (parts - parts.mean(1, keepdims=True)) / np.sqrt(parts.var(1, keepdims=True) + 1e-5)
    return parts.reshape(values.shape)


@pytest.mark.parametrize("resize", ["last", "first"])
def test_levels_of_several_strides_meet_on_one_grid(resize):
    net = seeded(config(resize=resize))
    rng = np.random.default_rng(0)
    fine, coarse = rng.normal(size=(4, 6, 8)), rng.normal(size=(6, 3, 4))
    with torch.no_grad():
        found = net([torch.from_numpy(fine)[None], torch.from_numpy(coarse)[None]], (45, 64))[0].numpy()
    first, second, mix = (
        weight.detach().numpy()[:, :, 0, 0]
        for weight in (net.levels[0][0].weight, net.levels[1][0].weight, net.mix.weight)
    )

    def reduce(weight, values, groups):
        values = np.einsum("oc,chw->ohw", weight, values)
        return elu(group_norm(values, groups) if groups else values)

    upper = reduce(first, fine, 0)
    lower = enlarged(reduce(second, coarse, 2), 2) if resize == "last" else reduce(second, enlarged(coarse, 2), 2)
    expected = elu(np.einsum("oc,chw->ohw", mix, np.concatenate([upper, lower])))
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(height=st.integers(1, 70), width=st.integers(1, 70), stride=st.sampled_from([4, 8, 16]))
def test_features_cover_images_of_any_size(height, width, stride):
    net = seeded(config(stride=stride))
    levels = [
        torch.zeros(1, 4, -(-height // 8), -(-width // 8)).double(),
        torch.zeros(1, 6, -(-height // 16), -(-width // 16)).double(),
    ]
    grid = grid_size((height, width), stride)
    assert net(levels, (height, width)).shape == (1, 7, *grid)
    padded = pad_to_multiple(torch.ones(1, 3, height, width), stride, value=-1)
    assert padded.shape[-2:] == (grid[0] * stride, grid[1] * stride)
    assert torch.all(padded[..., :height, :width] == 1)
    assert padded.numel() - (padded == -1).sum() == 3 * height * width


def test_images_of_a_batch_do_not_see_each_other():
    net = seeded(config())
    levels = [torch.randn(3, 4, 6, 6).double(), torch.randn(3, 6, 3, 3).double()]
    together = net(levels, (48, 48))
    alone = torch.cat([net([level[n : n + 1] for level in levels], (48, 48)) for n in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-13)


def test_gradient_reaches_every_weight():
    net = seeded(config())
    net([torch.randn(1, 4, 6, 6).double(), torch.randn(1, 6, 3, 3).double()], (48, 48)).sum().backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in net.parameters())


def test_mix_starts_with_the_published_gain_of_four():
    torch.manual_seed(0)
    net = AffinityNet(preset("psa", ["a", "b", "c"], [16, 16, 16]))
    assert float(net.mix.weight.detach().abs().max()) == pytest.approx(4 * (6 / 896) ** 0.5, rel=1e-3)


def test_presets_have_the_published_widths_and_take_the_last_levels():
    psa = preset("psa", ["l1", "l2", "l3", "l4"], [8, 16, 32, 64])
    assert (psa.layers, psa.channels) == (("l2", "l3", "l4"), (16, 32, 64))
    assert (psa.widths, psa.groups, psa.features, psa.stride) == ((64, 128, 256), (0, 0, 0), 448, 8)
    paper = preset("paper-003", ["l1", "l2"], [512, 1024])
    assert (paper.channels, paper.widths, paper.groups, paper.features) == ((1024,), (512,), (32,), 512)
    assert paper.resize == "first"
    assert PRESETS["psa-vgg16"].groups == (8, 16, 32)


def test_preset_says_what_is_wrong():
    with pytest.raises(ValueError, match="psa-vgg16"):
        preset("none", ["a"], [1])
    with pytest.raises(ValueError, match="3 levels, found 1"):
        preset("psa", ["a"], [1])


def test_configuration_survives_json_and_rebuilds_the_network():
    before = config(resize="first", stride=4)
    after = AffinityConfig.from_json(before.to_json())
    assert after == before
    AffinityNet(after).load_state_dict(AffinityNet(before).state_dict())


def changed(**entries):
    return json.dumps(json.loads(config().to_json()) | entries)


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "3", '{"layers": ["a"]}', changed(depth=3), changed(widths=[3]), changed(stride="8")],
)
def test_a_broken_configuration_is_bad_input(text):
    with pytest.raises(BadInput, match="affinity-train"):
        AffinityConfig.from_json(text)


@pytest.mark.parametrize(
    "change",
    [{"widths": (3,)}, {"layers": (), "channels": (), "widths": (), "groups": ()}, {"groups": (2, 0)}, {"stride": 0},
     {"groups": (-1, 0)}, {"resize": "never"}],
)  # fmt: skip
def test_sizes_that_do_not_fit_are_refused(change):
    with pytest.raises(ValueError, match=r"needed|split"):
        config(**change)


def test_levels_other_than_configured_are_refused():
    net = AffinityNet(config())
    with pytest.raises(ValueError, match="channels"):
        net([torch.zeros(1, 4, 2, 2)], (16, 16))
    with pytest.raises(ValueError, match="channels"):
        net([torch.zeros(1, 4, 2, 2), torch.zeros(1, 5, 2, 2)], (16, 16))


@pytest.mark.gpu
def test_cuda_gives_the_same_features():
    torch.manual_seed(0)
    net, levels = AffinityNet(config()), [torch.randn(2, 4, 6, 8), torch.randn(2, 6, 3, 4)]
    with torch.no_grad():
        here = net(levels, (45, 64))
        there = net.cuda()([level.cuda() for level in levels], (45, 64)).cpu()
    torch.testing.assert_close(here, there, rtol=1e-3, atol=1e-3)
