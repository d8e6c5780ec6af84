"""Which heights and widths a network takes."""

import math
from typing import Any

from torch import nn


def side_steps(net: nn.Module) -> tuple[int, int]:
    """(height, width) of which the sides of an image should be multiples: a transformer's patches; else (1, 1)."""
    for module in net.modules():  # timm's patch embeddings
        if hasattr(module, "strict_img_size"):
            embed: Any = module
            height, width = embed.feat_ratio(as_scalar=False)
            return height, width
    return 1, 1


def refused_steps(net: nn.Module) -> tuple[int, int]:
    """As `side_steps`, of a network that refuses other sides; (1, 1) of one that pads them."""
    pads = any(getattr(module, "dynamic_img_pad", False) for module in net.modules())
    return (1, 1) if pads else side_steps(net)


def takes_one_size(net: nn.Module) -> bool:
    """Whether a network refuses every size but its own, as some transformers do."""
    modules = list(net.modules())
    patches = [module for module in modules if hasattr(module, "strict_img_size")]  # timm's patch embeddings
    published = getattr(net, "pretrained_cfg", None) or {}
    return (
        any(module.strict_img_size for module in patches)
        or (not patches and bool(published.get("fixed_input_size")))
        or any(hasattr(module, "image_size") and hasattr(module, "patch_size") for module in modules)  # torchvision's
    )


def nearest(side: float, step: int) -> int:
    """The multiple of `step` next to `side`, at least one."""
    return max(1, math.floor(side / step + 0.5)) * step


def enough(side: int, step: int) -> int:
    """The smallest multiple of `step` that is not below `side`."""
    return -(-side // step) * step
