import numpy as np
import pytest
import torch

from tests.heatmaps import nets
from xseg.classifier import create
from xseg.errors import UsageError
from xseg.features.latent import head_disagrees, latent_images, latents, scores

NETS = {"pooled": nets.pooled, "convolutional": nets.convolutional, "deep": nets.deep}


@pytest.mark.parametrize("name", NETS)
def test_the_head_makes_the_logits_of_the_latent_vector(name):
    classifier, images = NETS[name](), nets.normalised()
    with torch.no_grad():
        torch.testing.assert_close(scores(classifier, latents(classifier, images)).float(), classifier(images))
    assert head_disagrees(classifier) is None


def test_a_transformer_s_latent_vector_is_what_its_head_reads():
    vit = create("timm:test_vit", ("a", "b"), weights="none").eval()
    images = nets.normalised(2, *vit.config.input_size)
    with torch.no_grad():
        expected = vit.net.forward_head(vit.net.forward_features(images), pre_logits=True)
        torch.testing.assert_close(latents(vit, images), expected)
        tokens = vit.net.blocks(vit.net.norm_pre(vit.net._pos_embed(vit.net.patch_embed(images))))
        torch.testing.assert_close(latents(vit, images, "blocks"), tokens.mean(1))


def test_a_layer_is_averaged_over_its_places():
    classifier, images = nets.pooled(), nets.normalised()
    with torch.no_grad():
        features = classifier.net.features[:2](images.clone())
        torch.testing.assert_close(latents(classifier, images, "features.1"), features.mean((2, 3)))
        torch.testing.assert_close(latents(classifier, images, "fc"), classifier(images))


def test_more_than_a_head_at_the_end_is_noticed():
    classifier = nets.pooled()
    classifier.net.fc.register_forward_hook(lambda module, inputs, output: output.tanh())
    assert "more comes after it" in head_disagrees(classifier)


class Odd(torch.nn.Module):
    """One module that makes five axes, and one that never runs."""

    def __init__(self):
        super().__init__()
        self.features, self.five, self.idle = nets.body(), torch.nn.Unflatten(1, (2, 3)), torch.nn.Identity()
        self.fc = torch.nn.Linear(6, 4)

    def forward(self, images):
        return self.fc(self.five(self.features(images)).flatten(1, 2).mean((2, 3)))


def test_layers_that_cannot_be_averaged_are_refused():
    classifier, images = nets.wrap(Odd()), nets.normalised()
    with pytest.raises(UsageError, match="no such module"):
        latents(classifier, images, "featurs")
    with pytest.raises(UsageError, match="never run"):
        latents(classifier, images, "idle")
    with pytest.raises(UsageError, match=r"shape \(3, 2, 3, 8, 10\)"):
        latents(classifier, images, "five")


def test_vectors_of_pictures_do_not_depend_on_the_batch_and_nothing_is_left_behind():
    classifier = nets.pooled().train()
    pictures = [nets.picture(seed=k) for k in range(3)] + [nets.picture(48, 72, seed=9)]
    one, four = (latent_images(classifier, pictures, batch_size=size) for size in (1, 4))
    assert one.shape == (4, 6)
    assert one.dtype == np.float32
    np.testing.assert_allclose(one, four, rtol=1e-5, atol=1e-6)
    assert classifier.training
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in classifier.modules())
