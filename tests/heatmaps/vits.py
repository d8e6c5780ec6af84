"""Tiny transformers with random weights as classifiers, and the one of the published attention maps."""

import importlib

import numpy as np
import torch

from tests.heatmaps.nets import CLASSES
from xseg.classifier import Classifier, ClassifierConfig
from xseg.device import torchvision_ready

SHAPE = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 3, "num_heads": 3, "num_classes": len(CLASSES)}

# Every family and pooling that attention methods serve; rows that the head reads, tokens before the patches.
FAMILIES = {
    "class token": ("vision_transformer.VisionTransformer", {}),
    "registers": ("vision_transformer.VisionTransformer", {"reg_tokens": 3, "no_embed_class": True}),
    "mean": ("vision_transformer.VisionTransformer", {"global_pool": "avg"}),
    "mean without class token": (
        "vision_transformer.VisionTransformer",
        {"global_pool": "avg", "class_token": False, "fc_norm": False},
    ),
    "mean with prefix": ("vision_transformer.VisionTransformer", {"global_pool": "avg", "pool_include_prefix": True}),
    "attention pooling": ("vision_transformer.VisionTransformer", {"global_pool": "map", "class_token": False}),
    "distilled": ("deit.VisionTransformerDistilled", {}),
    "beit": ("beit.Beit", {"use_abs_pos_emb": False, "use_rel_pos_bias": True, "init_values": 0.5}),
    "eva": ("eva.Eva", {"use_rot_pos_emb": True, "swiglu_mlp": True}),
    "eva with class token": ("eva.Eva", {"use_rot_pos_emb": True, "global_pool": "token", "qkv_fused": False}),
    "cait": ("cait.Cait", {"depth_token_only": 2, "init_values": 0.5}),
}


def kind_of(name):
    """A class of `timm.models`."""
    torchvision_ready()
    module, _, kind = name.partition(".")
    return getattr(importlib.import_module(f"timm.models.{module}"), kind)


def vit(family="class token", seed=0, dynamic=True, classes=CLASSES, head="head", **kwargs):
    """A tiny transformer; with `dynamic` for images of any size, where its family can."""
    kind, more = FAMILIES[family]
    arguments = SHAPE | {"num_classes": len(classes)} | more | kwargs
    if dynamic and kind not in ("beit.Beit", "cait.Cait"):
        arguments["dynamic_img_size"] = True
    if "use_rot_pos_emb" in arguments:
        arguments["num_heads"] = 2  # rotations want heads of a multiple of four channels
    config = {name: kwargs.pop(name) for name in ("layer", "activation") if name in kwargs}
    arguments = {name: value for name, value in arguments.items() if name not in config}
    return wrap(kind_of(kind)(**arguments), seed, classes=classes, head=head, **config)


def made(num_classes, family="class token"):
    """The network of `vit`, as a factory for `create`."""
    return vit(family, classes=[str(k) for k in range(num_classes)]).net


def wrap(net, seed=0, classes=CLASSES, **config):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator) * 0.25
            scale = "norm" in name and name.endswith("weight")
            parameter.copy_(1 + noise if scale or ".ls" in name or "gamma" in name else noise)
    size = getattr(net, "patch_embed", None)
    size = tuple(size.img_size) if size is not None else (16, 16)
    given = {"layer": "patch_embed", "head": "head", "input_size": size} | config
    return Classifier(ClassifierConfig("tests:vit", tuple(classes), **given), net).eval()


def flags(classifier):
    """The switches of fused attention."""
    return [module.fused_attn for module in classifier.modules() if hasattr(module, "fused_attn")]


def fuse(classifier, fused):
    for module in classifier.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = fused
    return classifier


def published(shared):
    """The network of chefer_vit.npz in float64, and the file's arrays."""
    with np.load(shared("reference/fixtures/chefer_vit.npz"), allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    net = kind_of("vision_transformer.VisionTransformer")(**SHAPE | {"num_classes": 5})
    net.load_state_dict({k[3:]: torch.from_numpy(v) for k, v in arrays.items() if k.startswith("sd/")})
    config = ClassifierConfig("tests:vit", tuple("abcde"), layer="patch_embed", head="head", input_size=(16, 16))
    return Classifier(config, net).double().eval(), arrays
