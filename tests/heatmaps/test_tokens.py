import re

import pytest
import torch

from tests.heatmaps.nets import normalised, pooled
from tests.heatmaps.vits import vit, wrap
from xseg.classifier.model import create
from xseg.errors import UsageError
from xseg.heatmaps.attention import watching
from xseg.heatmaps.grids import arrangement
from xseg.heatmaps.layers import evaluating
from xseg.heatmaps.tokens import not_over_tokens, readers_of, tokens_of

READERS = {
    "class token": (1, (0,), False, 3, 0),
    "registers": (4, (0,), False, 3, 0),
    "mean": (1, (), True, 3, 0),
    "mean without class token": (0, (), True, 3, 0),
    "mean with prefix": (1, (0,), True, 3, 0),
    "attention pooling": (1, (0,), False, 4, 1),
    "distilled": (2, (0, 1), False, 3, 0),
    "beit": (1, (), True, 3, 0),
    "eva": (1, (), True, 3, 0),
    "eva with class token": (1, (0,), False, 3, 0),
    "cait": (1, (0,), False, 5, 0),
}


def told(readers):
    return readers.prefix, readers.read, readers.patches, readers.blocks, readers.latent


@pytest.mark.parametrize("family", READERS)
def test_the_tokens_that_the_head_reads_are_found(family):
    assert told(readers_of(vit(family))) == READERS[family]


@pytest.mark.parametrize("family", ["class token", "mean", "distilled", "cait"])
def test_a_head_of_zeros_hides_nothing(family):
    classifier = vit(family)
    for name, parameter in classifier.net.named_parameters():
        if name.startswith("head"):
            parameter.data.zero_()
    assert classifier(normalised(1, 16, 16)).abs().max() == 0
    assert told(readers_of(classifier)) == READERS[family]


@pytest.mark.parametrize("size", [(16, 16), (40, 80), (80, 16), (4, 12)])
def test_grids_follow_the_image(size):
    classifier = vit()
    tokens = tokens_of(classifier, size, 1 + size[0] * size[1] // 16)
    assert tokens.grid == (size[0] // 4, size[1] // 4)
    values = torch.arange(tokens.count)
    assert torch.equal(tokens.of_patches(values).flatten(), values[1:])


def test_tokens_that_are_no_grid_are_refused():
    with pytest.raises(UsageError, match="20 tokens of an image of 16x16 pixels are no grid"):
        tokens_of(vit(), (16, 16), 20)


@pytest.mark.parametrize(
    ("size", "count", "expected"),
    [
        ((16, 16), 17, (1, (4, 4))),
        ((16, 16), 16, (0, (4, 4))),
        ((40, 80), 201, (1, (10, 20))),
        ((16, 16), 5, (1, (2, 2))),
    ],
)
def test_layers_with_and_without_class_token_are_told_apart(size, count, expected):
    assert arrangement(vit(), size, count) == expected


def test_a_grid_that_the_network_does_not_tell_is_guessed_by_the_aspect():
    classifier = pooled()
    assert arrangement(classifier, (224, 224), 196) == (0, (14, 14))
    assert arrangement(classifier, (224, 224), 197) == (1, (14, 14))
    assert arrangement(classifier, (224, 224), 198) == (2, (14, 14))
    assert arrangement(classifier, (160, 320), 200) == (0, (10, 20))
    assert arrangement(classifier, (320, 160), 201) == (1, (20, 10))
    assert arrangement(classifier, (224, 224), 7) is None


def test_the_head_reads_the_mean_of_its_tokens_rows():
    matrix = normalised(2, 18, 18)
    tokens = tokens_of(vit("distilled"), (16, 16), 18)
    torch.testing.assert_close(tokens.read(matrix), matrix[..., :2, 2:].mean(-2).unflatten(-1, (4, 4)))
    matrix = normalised(2, 16, 16)
    tokens = tokens_of(vit("mean without class token"), (16, 16), 16)
    torch.testing.assert_close(tokens.read(matrix), matrix.mean(-2).unflatten(-1, (4, 4)))
    torch.testing.assert_close((tokens.start(matrix) @ matrix)[..., 0, :].unflatten(-1, (4, 4)), tokens.read(matrix))


def test_class_attention_and_pooling_take_their_places_among_all_tokens():
    for family, first in (("cait", 17), ("attention pooling", 16)):
        tokens = tokens_of(vit(family), (16, 16), first)
        among, last = normalised(2, 16, 16), normalised(2, 1, first)
        placed = tokens.place(among)
        assert placed.shape == (2, 3, 17, 17)
        assert torch.equal(placed[..., 1:, 1:], among)
        assert placed[..., 0, :].abs().sum() == placed[..., 0].abs().sum() == 0
        placed = tokens.place(last)
        assert torch.equal(placed[..., 0, -first:], last[..., 0, :])
        assert placed[..., 1:, :].abs().sum() == 0
        assert torch.equal(tokens.read(last), last[..., 0, -16:].unflatten(-1, (4, 4)))
    whole = normalised(1, 17, 17)
    assert tokens_of(vit(), (16, 16), 17).place(whole) is whole


@pytest.mark.parametrize(
    ("shapes", "reason"),
    [
        ([], "no attention"),
        ([(64, 3, 49, 49)], "windows"),
        ([(1, 3, 196, 196), (1, 3, 49, 49)], r"different tokens \(attention of 196x196 and of 49x49\)"),
        ([(1, 3, 3136, 49)] * 2, r"different tokens \(attention of 3136x49\)"),
        ([(1, 3, 48, 48), (1, 3, 1, 197)], "different tokens"),
        ([(1, 3, 196, 196), (1, 3, 1, 197), (1, 3, 196, 196)], "different tokens"),
        ([(1, 3, 196, 196), (1, 3, 1, 197), (1, 3, 1, 196)], "different tokens"),
    ],
)
def test_attention_over_other_things_is_told(shapes, reason):
    assert re.search(reason, not_over_tokens([torch.empty(shape) for shape in shapes], 1))


@pytest.mark.parametrize(
    "shapes",
    [
        [(1, 3, 197, 197)] * 3,
        [(1, 3, 196, 196)] * 2 + [(1, 3, 1, 197)] * 2,
        [(1, 3, 196, 196)] * 2 + [(1, 3, 1, 196)],
    ],
)
def test_attention_over_all_tokens_is_accepted(shapes):
    assert not_over_tokens([torch.empty(shape) for shape in shapes], 1) is None


def test_a_head_that_reads_none_of_it_is_told():
    class Beside(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = vit(classes="abcde").net, torch.nn.Linear(3, 4)

        def forward(self, x):
            self.body(x)
            return self.head(x.mean((2, 3)))

    with pytest.raises(UsageError, match="does not read what its last attention attends to"):
        readers_of(wrap(Beside(), layer="body"))


def test_a_probe_leaves_the_network_as_it_was():
    classifier = vit().train()
    state = {key: value.clone() for key, value in classifier.state_dict().items()}
    readers_of(classifier)
    assert classifier.training
    assert all(module.training for module in classifier.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in classifier.parameters())
    assert all(torch.equal(value, state[key]) for key, value in classifier.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in classifier.modules())


def test_a_transformer_of_timm_built_by_xseg_takes_other_sizes_with_the_same_keys():
    import timm

    classifier = create("timm:test_vit2", ("a", "b"), weights="none")
    plain = timm.create_model("test_vit2", num_classes=2)
    assert list(classifier.net.state_dict()) == list(plain.state_dict())
    plain.load_state_dict(classifier.net.state_dict())
    images = normalised(1, *classifier.config.input_size)
    torch.testing.assert_close(classifier.eval()(images), plain.eval()(images))
    other = normalised(1, 48, 96)
    plain.set_input_size((48, 96))
    torch.testing.assert_close(classifier(other), plain(other), atol=1e-5, rtol=1e-4)
    with evaluating(classifier), watching() as matrices:
        classifier(other)
    assert tokens_of(classifier, (48, 96), matrices[-1].shape[-1]).grid == (3, 6)
