"""Tiny transformers of timm with random weights: a family each that relevance passes, and some that it does not."""

from functools import partial

import torch
from torch import nn

from tests.heatmaps.nets import CLASSES
from xseg.classifier import Classifier, ClassifierConfig
from xseg.device import torchvision_ready

torchvision_ready()

from timm.layers import HybridEmbed  # noqa: E402
from timm.models.beit import Beit  # noqa: E402
from timm.models.cait import Cait  # noqa: E402
from timm.models.deit import VisionTransformerDistilled  # noqa: E402
from timm.models.eva import Eva  # noqa: E402
from timm.models.pvt_v2 import PyramidVisionTransformerV2  # noqa: E402
from timm.models.swin_transformer import SwinTransformer  # noqa: E402
from timm.models.vision_transformer import VisionTransformer  # noqa: E402


class Stem(nn.Module):
    """A convolution with a batch norm; squared, it has a step that no relevance passes."""

    def __init__(self, square=False):
        super().__init__()
        self.conv, self.norm, self.square = nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), square

    def forward(self, x):
        x = self.norm(self.conv(x)).relu()
        return x**2 if self.square else x


def embed(square=False, **options):
    """Patches of a feature map."""
    return HybridEmbed(Stem(square), **options)


def _vit(kind=VisionTransformer, **options):
    given = {"img_size": 24, "patch_size": 4, "embed_dim": 16, "depth": 3, "num_heads": 2, "num_classes": 4}
    return kind(**given | options)


#: All take pictures of 24 pixels a side.
SERVED = {
    "vit": partial(_vit, dynamic_img_size=True),
    "registers": partial(_vit, reg_tokens=3, no_embed_class=True, dynamic_img_size=True, init_values=0.5),
    "mean": partial(_vit, global_pool="avg", dynamic_img_size=True),
    "mean without class token": partial(
        _vit, global_pool="avg", class_token=False, patch_size=6, dynamic_img_size=True
    ),
    "query and key norms": partial(_vit, qk_norm=True, dynamic_img_size=True),
    "distilled": partial(_vit, VisionTransformerDistilled, dynamic_img_size=True),
    "beit": partial(_vit, Beit, init_values=0.5, use_abs_pos_emb=False, use_rel_pos_bias=True),
    "eva": partial(_vit, Eva, swiglu_mlp=True, scale_mlp=True, use_rot_pos_emb=True, dynamic_img_size=True),
    "eva with registers": partial(
        _vit,
        Eva,
        attn_type="rope",
        qkv_fused=False,
        use_rot_pos_emb=True,
        rope_rotate_half=True,
        num_reg_tokens=2,
        global_pool="token",
        dynamic_img_size=True,
    ),
    "cait": partial(_vit, Cait, depth=2, depth_token_only=2, init_values=0.5),
    "hybrid": partial(_vit, embed_layer=embed, patch_size=2, dynamic_img_size=True),
}
REFUSED = {
    "swin": partial(
        SwinTransformer,
        img_size=24,
        patch_size=2,
        window_size=3,
        embed_dim=8,
        depths=(1, 2),
        num_heads=(1, 2),
        num_classes=4,
    ),
    "pvt": partial(
        PyramidVisionTransformerV2,
        embed_dims=(8, 8, 16, 16),
        depths=(1,) * 4,
        num_heads=(1,) * 4,
        sr_ratios=(2, 1, 1, 1),
        num_classes=4,
    ),
    "pooled by attention": partial(_vit, global_pool="map", class_token=False),
}


def transformer(make="vit", seed=0, size=24, **options):
    """A classifier with weights large enough to make attention uneven and norms that do something; in float64."""
    if isinstance(make, str):
        make = SERVED.get(make) or REFUSED[make]
    net, generator = make(**options), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for path, values in (*net.named_parameters(), *net.named_buffers()):
            if path.endswith("running_var") or ("norm" in path and path.endswith("weight")):
                values.copy_(torch.rand(values.shape, generator=generator) + 0.5)
            elif values.is_floating_point() and not path.endswith(("rope.bands", "gamma_1", "gamma_2")):
                values.copy_(torch.randn(values.shape, generator=generator) * 0.3)
    config = ClassifierConfig("tests:vit", CLASSES, layer="patch_embed", head="head", input_size=(size, size))
    return Classifier(config, net).double().eval()
