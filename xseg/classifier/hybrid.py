"""The hybrid vision transformer: attention over the feature map of a convolutional network.

Dosovitskiy et al. 2021 (arXiv:2010.11929); paper 003 explains one and feeds its stem to AffinityNet. The network is
timm's `VisionTransformer`, and only its patch embedding is made here, so all that serves one serves the other.

With LayerScale (`layer_scale`, the default) training starts from a network that pools: values and projections pass
features through, the MLPs give nothing, and the class token has no content of its own. It then holds the tokens' mean,
brought to unit size by the last norm however small the scale, while the tokens themselves hardly change: the features
of the stem reach the head as in a plain convolutional classifier, but all of them by way of attention.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from xseg.classifier.config import Scalar
from xseg.classifier.encoder import (
    UNFIT,
    Preprocessing,
    load_published,
    published_head,
    published_preprocessing,
    reason_of,
    require_timm,
)
from xseg.classifier.shape import Shape
from xseg.classifier.weights import load_into
from xseg.errors import UsageError

FEATURES = "patch_embed.backbone"  # module path of the stem, whose output is the last feature map
WHOLE = "patch_embed."  # how keys begin that a hybrid has and its stem has not
STRIDE = 16  # pixels per token, unless an output stride is asked for
PAPER_STEM = "resnetv2-3-4-9"  # the first three stages of a ResNet-50; timm has them only inside its own hybrids
PAPER_MODEL = "vit_base_r50_s16_384"  # what timm calls the whole of paper 003's shape
PRESETS: dict[str, dict[str, Scalar]] = {
    "small": {},
    "paper-003": {
        "stem": PAPER_STEM, "dim": 768, "depth": 12, "heads": 12, "mlp_ratio": 4.0, "layer_scale": None, "grid": 28,
    },
}  # fmt: skip


@dataclass(frozen=True)
class HybridShape(Shape):
    """What decides the layers of a hybrid.

    Args:
        stem: a convolutional network of timm, or `resnetv2-3-4-9`.
        dim: channels of a token.
        depth: number of blocks.
        heads: attention heads of a block.
        mlp_ratio: hidden channels of a block's MLP per channel of a token.
        layer_scale: where LayerScale starts; None (`null`) has none, and weights are drawn as published.
        grid: rows and columns of the position embeddings, which are interpolated to the tokens of an image.
        drop_rate: dropout before the head.
        drop_path_rate: stochastic depth of the last block, rising from 0 in the first.

    Raises:
        UsageError: values out of range, or that do not fit together.
    """

    stem: str = "tf_efficientnet_lite0"
    dim: int = 384
    depth: int = 3
    heads: int = 6
    mlp_ratio: float = 2.0
    layer_scale: float | None = 0.1
    grid: int = 14
    drop_rate: float = 0.0
    drop_path_rate: float = 0.0

    kind: ClassVar[str] = "hybrid-vit"
    presets: ClassVar[Mapping[str, Mapping[str, Scalar]]] = PRESETS
    limits: ClassVar[Mapping[str, tuple[float, float]]] = {
        "dim": (1, 8192), "depth": (1, 64), "heads": (1, 128), "grid": (2, 256),
        "mlp_ratio": (0.01, 16), "layer_scale": (1e-6, 10), "drop_rate": (0, 0.99), "drop_path_rate": (0, 0.99),
    }  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dim % self.heads:
            raise UsageError(
                f"--set dim={self.dim}: cannot be shared by {self.heads} heads", "give a multiple of --set heads=N"
            )


class StemEmbed(nn.Module):
    """Patch embedding: each position of a feature map becomes a token by a 1x1 convolution.

    Its attributes are named as those of timm's patch embeddings, which `VisionTransformer` reads.

    Args:
        backbone: images (N,3,H,W) to features (N,K,h,w).
        dim: channels of a token.
        grid: rows and columns of the position embeddings.

    Raises:
        ValueError: the backbone gives something else.
    """

    output_fmt = "NHWC"

    def __init__(self, backbone: nn.Module, dim: int, grid: int) -> None:
        super().__init__()
        with torch.no_grad():
            features = backbone.eval()(torch.zeros(1, 3, 129, 128))
        backbone.train()
        if features.ndim != 4:
            raise ValueError(f"{tuple(features.shape)} for an image, needed (N,K,h,w)")
        channels, rows, columns = features.shape[1:]
        stride = 128 // columns
        self.backbone = backbone
        self.proj = nn.Conv2d(channels, dim, 1)
        self.grid_size, self.num_patches = (grid, grid), grid * grid
        self.patch_size = (stride, stride)
        self._rounds_up = rows * stride > 129

    def feat_ratio(self) -> int:
        """Pixels per token."""
        return self.patch_size[0]

    def dynamic_feat_size(self, img_size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of tokens of an image of (height, width) pixels."""
        stride, more = self.feat_ratio(), self.feat_ratio() - 1 if self._rounds_up else 0
        return (img_size[0] + more) // stride, (img_size[1] + more) // stride

    def forward(self, images: Tensor) -> Tensor:
        """Tokens (N,h,w,D) of images (N,3,H,W)."""
        return self.proj(self.backbone(images)).permute(0, 2, 3, 1).contiguous()


def embedding(net: nn.Module) -> StemEmbed:
    """The patch embedding of a hybrid."""
    found = net.get_submodule("patch_embed")
    assert isinstance(found, StemEmbed)
    return found


def hybrid_vit(shape: HybridShape, classes: int, output_stride: int | None = None) -> nn.Module:
    """A hybrid with random weights and `classes` logits, read from its class token.

    Raises:
        UsageError: no such stem, or one without feature maps at that stride.
    """
    from timm.models.vision_transformer import VisionTransformer

    embed = _embed(shape, output_stride or STRIDE)
    net = VisionTransformer(
        img_size=shape.grid * STRIDE,
        num_classes=classes,
        embed_dim=shape.dim,
        depth=shape.depth,
        num_heads=shape.heads,
        mlp_ratio=shape.mlp_ratio,
        init_values=shape.layer_scale,
        dynamic_img_size=True,
        drop_rate=shape.drop_rate,
        drop_path_rate=shape.drop_path_rate,
        embed_layer=lambda **_: embed,
    )
    if shape.layer_scale is not None:
        _start_by_pooling(net)
    return net


def _embed(shape: HybridShape, stride: int) -> StemEmbed:
    try:
        embed = StemEmbed(_stem(shape.stem, stride), shape.dim, shape.grid)
    except UNFIT as error:
        raise UsageError(
            f"--set stem={shape.stem}: it gives no feature maps ({reason_of(error)})",
            "choose a convolutional network of timm",
        ) from error
    if embed.feat_ratio() != stride:
        raise UsageError(
            f"--set stem={shape.stem}: its features have stride {embed.feat_ratio()}, needed {stride}",
            f"give --output-stride {embed.feat_ratio()}, or choose another stem",
        )
    return embed


def _stem(name: str, stride: int) -> nn.Module:
    import timm
    from timm.layers import StdConv2dSame
    from timm.models.resnetv2 import ResNetV2

    whole: dict[str, Any] = {"num_classes": 0, "global_pool": ""}
    if name == PAPER_STEM:
        # 16 is the stride of three stages, which a smaller one dilates; the epsilon is that of the published weights.
        convolution = partial(StdConv2dSame, eps=1e-8)
        return ResNetV2(
            [3, 4, 9], preact=False, stem_type="same", conv_layer=convolution, output_stride=stride, **whole
        )
    require_timm(name, f"--set stem={name}")
    try:
        return timm.create_model(name, pretrained=False, output_stride=stride, **whole)
    except (AssertionError, TypeError, ValueError, NotImplementedError):  # it has no choice of strides
        return timm.create_model(name, pretrained=False, **whole)


@torch.no_grad()
def _start_by_pooling(net: Any) -> None:  # noqa: ANN401 - timm's VisionTransformer
    nn.init.orthogonal_(net.patch_embed.proj.weight)
    nn.init.zeros_(net.patch_embed.proj.bias)
    nn.init.zeros_(net.pos_embed)
    for block in net.blocks:
        # Queries and keys keep their small random weights: from zero, neither would have a gradient.
        values = block.attn.qkv.weight.chunk(3)[2]
        nn.init.eye_(values)
        nn.init.eye_(block.attn.proj.weight)
        nn.init.zeros_(block.mlp.fc2.weight)


def preprocessing_of(net: nn.Module) -> Preprocessing:
    """Mean and std of the stem's weights, and the size that the position embeddings were made for."""
    embed = embedding(net)
    side = embed.grid_size[0] * STRIDE
    plain = Preprocessing((side, side), (0.5,) * 3, (0.5,) * 3)
    return replace(published_preprocessing(embed.backbone, plain), input_size=(side, side))


def load_hybrid(net: nn.Module, state: Mapping[str, Tensor], source: str, skip: str | None = None) -> None:
    """Load the weights of a whole hybrid, or those of its stem as timm has them.

    Position embeddings are interpolated to the grid of `net`. From a stem's weights the patch embedding starts with the
    directions that the stem's own head tells classes apart by (its first right singular vectors), which loses least of
    what the head knew; the blocks stay as they are.

    Args:
        net: from `hybrid_vit`.
        state: tensors by state-dict key.
        source: where they came from, for messages.
        skip: module path of a new head, whose parameters keep their values.

    Raises:
        BadInput: they fit neither.
    """
    if any(key.startswith(WHOLE) for key in state):
        load_into(net, _on_grid(net, state), source, skip)
        return
    stem = embedding(net).backbone
    load_published(stem, state, source, "stem")
    head = published_head(stem)
    if f"{head}.weight" in state:
        _embed_by(embedding(net).proj, state[f"{head}.weight"].flatten(1))


@torch.no_grad()
def _embed_by(proj: nn.Conv2d, head: Tensor) -> None:
    weight = proj.weight
    if head.shape[1] != weight.shape[1]:
        return
    directions = torch.linalg.svd(head.double() - head.double().mean(0))[2][: len(weight)]
    weight[: len(directions)] = directions[:, :, None, None].to(weight)


@torch.no_grad()
def head_in_tokens(net: nn.Module, head: Tensor) -> Tensor:
    """Weights (C,D) that read from tokens what `head` (C,K) reads from the stem's features.

    Exact for the part of `head` within the span of the patch embedding, if that is orthonormal.
    """
    return head @ embedding(net).proj.weight.flatten(1).to(head).T


def _on_grid(net: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    from timm.layers import resample_abs_pos_embed

    found, own = state.get("pos_embed"), net.get_parameter("pos_embed")
    if found is None or found.ndim != 3 or found.shape[1] == own.shape[1] or found.shape[2] != own.shape[2]:
        return dict(state)
    side = round((found.shape[1] - 1) ** 0.5)
    if side * side + 1 != found.shape[1]:
        return dict(state)  # not square: `load_into` tells
    grid = list(embedding(net).grid_size)
    return {**state, "pos_embed": resample_abs_pos_embed(found, grid, [side, side])}
